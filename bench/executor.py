"""What Ray costs beside this machine's own processes: seconds until a run's first step, and MB/s of tokenization.

Seconds count from the start of the command, of a run whose tokens are there, to the moment its first step is in
metrics.jsonl; on Ray the command also starts the Ray that it uses. Tokenization is of one text in blocks of 4 MB, by
two processes of our own or by two workers of a Ray that is up. In turns, medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from rows import Row, arguments, show

from suite.data import pack, stories, tokenizer
from suite.data.encode import Shape
from suite.data.source import Source
from suite.data.spill import two_passes
from suite.data.stories import StoriesSpec
from suite.data.texts import Texts
from suite.executor import local, ray

HOME = Path(__file__).parents[1]
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
WAYS = {
    "local, 1 process": ["executor=local"],
    "local, 2 processes": ["executor=local", "num_workers=2"],
    "Ray, 1 worker": ["executor=ray"],
    "Ray, 2 workers": ["executor=ray", "num_workers=2"],
}
RUN = [
    "data.source=stories:400", "data.vocab_size=300", "data.tokens=tokens/bench", "budget.steps=3", "batch.sequences=4",
    "schedule.warmup_steps=1", "checkpoints.per_octave=0", "checkpoints.linear=0", "eval.rows=4", "samples.prompts=[]",
]  # fmt: skip


def seconds_to_first_step(root: Path, name: str, keys: list[str]) -> float:
    command = [sys.executable, "-m", "suite.train", HOME / "configs" / "mamba-100k.toml", *RUN, *keys]
    metrics = root / "runs" / name / "metrics.jsonl"
    began = time.monotonic()
    process = subprocess.Popen(
        [*map(str, command), f"root={root}", f"name={name}"],
        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env={**os.environ, **QUIET, "RAY_ADDRESS": ""},
    )  # fmt: skip
    while not (metrics.is_file() and "train/loss" in metrics.read_text()):
        if process.poll() is not None:
            sys.exit(f"bench: {' '.join(map(str, command))} ended without a step")
        time.sleep(0.01)
    taken = time.monotonic() - began
    process.wait()
    return taken


def seconds_of_tokenizing(home: Path, work: pack.Work) -> float:
    encoder = tokenizer.load(home / "tokenizer")
    with tempfile.TemporaryDirectory() as out:
        began = time.monotonic()
        source = Source(str(home / "text.jsonl"))
        pack.tokenize(source, encoder, Path(out), Shape(512), work, name="train", block_bytes=4 << 20)
        return time.monotonic() - began


def main() -> None:
    options = arguments(__doc__ or "")
    turns = 1 if options.quick else 3
    peer = {"peer": "ray", "version": version("ray")}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        seconds_to_first_step(home, "warm-up", [])  # makes the tokens
        taken = {way: [] for way in WAYS}
        for turn in range(turns):
            for number, (way, keys) in enumerate(WAYS.items()):
                taken[way].append(seconds_to_first_step(home, f"run-{turn}-{number}", keys))
        for way, seconds in taken.items():
            rows.append(
                Row(f"to the first step: {way}", statistics.median(seconds), "s", **peer if "Ray" in way else {})
            )

        count = 40_000 if options.quick else 120_000
        texts = stories.read(StoriesSpec(count), "train", 0, count)
        (home / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        tokenizer.save(tokenizer.train([Texts.of(texts[:3000])], 4096), home / "tokenizer")
        megabytes = sum(map(len, texts)) / 1e6
        os.environ.update(QUIET)
        works = {"local": pack.one_pass(local.map_in_order(2)), "Ray": two_passes(ray.map_anywhere(2))}
        ray.connect()
        seconds_of_tokenizing(home, works["Ray"])  # Ray's workers start on demand
        pairs = [[seconds_of_tokenizing(home, work) for work in works.values()] for _ in range(turns)]
        ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
        rows.append(Row("tokenization, 2 processes", megabytes / ours, "MB/s"))
        rows.append(Row("tokenization, Ray, 2 workers", megabytes / theirs, "MB/s", None, **peer))
        rows.append(Row("tokenization, Ray against processes", ours / theirs, "ratio", None, **peer))
    show(rows, options.json)


if __name__ == "__main__":
    main()
