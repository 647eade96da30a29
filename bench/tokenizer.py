"""Training a tokenizer, against the tokenizers library's own trainer.

Two texts: stories, which have few distinct words, and the Python files of the packages installed here, which have
many. Both trainers get the text in memory, each in the form that it takes: one buffer here, strings there. CPU seconds
of one process, in turns, medians; the library's threads are off, so that they cost nothing. That both make the same
tokenizer is checked in every turn.

The same was run once on public-domain prose, the King James Bible of Debian's package bible-kjv-text (4.4 MB):
docs/lab.md.
"""

from __future__ import annotations

import os
import statistics
import sysconfig
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from rows import Row, arguments, show

from suite.data import tokenizer
from suite.data.source import Source
from suite.data.texts import Texts
from suite.data.tokenizer import Tokenizer

os.environ["TOKENIZERS_PARALLELISM"] = "false"


def python_files(megabytes: float) -> list[str]:
    """Whole files, in the order of their names, until there are so many megabytes."""
    found, size = [], 0
    for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        found.append(path.read_text(encoding="utf-8", errors="replace"))
        size += len(found[-1])
        if size >= megabytes * 1e6:
            break
    return found


def cpu_seconds_of(train: Callable[[], Tokenizer]) -> tuple[float, str]:
    began = time.process_time()
    made = train()
    return time.process_time() - began, made.sha256


def main() -> None:
    options = arguments(__doc__ or "")
    megabytes = 10 if options.quick else 45
    corpora = {
        "stories": list(Source(f"stories:{int(megabytes * 1e6 / 443)}").documents()),
        "Python files": python_files(megabytes),
    }
    tokenizer.train([Texts.of(["a a"])], 300)  # imports
    peer = {"peer": "tokenizers BpeTrainer", "version": version("tokenizers")}
    rows = []
    for name, documents in corpora.items():
        texts = Texts.of(documents)
        size = texts.num_bytes / 1e6
        for vocab_size in (4096,) if options.quick or name == "stories" else (4096, 32_768):
            turns = []
            for _ in range(1 if options.quick else 3):
                ours, made = cpu_seconds_of(lambda: tokenizer.train([texts], vocab_size))  # noqa: B023
                theirs, reference = cpu_seconds_of(lambda: tokenizer.reference_train(documents, vocab_size))  # noqa: B023
                assert made == reference, f"{name}: another tokenizer than the library's"
                turns.append((ours, theirs))
            ours, theirs = (statistics.median(times) for times in zip(*turns, strict=True))
            about = f"{name}, {size:.0f} MB, {vocab_size} tokens"
            rows.append(Row(about, size / ours, "MB/s"))
            rows.append(Row(f"{about}: times tokenizers", theirs / ours, "ratio", ">= 10", **peer))
    show(rows, options.json)


if __name__ == "__main__":
    main()
