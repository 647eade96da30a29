"""`suite VERB ...`, the same as `python -m suite.verb ...`. Without a verb it prints them, in pipeline order."""

from __future__ import annotations

import contextlib
import importlib
import sys

VERBS = {
    "demo": "train the demo suite, from text to stories",
    "train-tokenizer": "text -> tokenizer",
    "convert-tokenizer": "tokenizer -> the same with a pad token, or as tokenizer.json",
    "tokenize": "text -> token shards",
    "seal": "token parquet made elsewhere -> token shards",
    "fetch": "token shards from the Hub, as tokenize --out-repo published them",
    "overlap": "token shards -> documents that two splits share",
    "seen": "text -> the documents, rows and steps that hold it",
    "shape": "number of parameters -> model shapes of that size",
    "plan": "TOML -> what it will take: FLOPs, disk, memory, time",
    "sweep": "configs -> the learning rate that suits each size",
    "train": "token shards -> checkpoints, from TOML",
    "diff": "two runs -> the first step at which they differ, and by what",
    "generate": "checkpoint -> text",
}


def usage() -> str:
    lines = [f"  suite {verb:<16} {what}" for verb, what in VERBS.items()]
    return "Train families of small language models, and learn from them.\n\n" + "\n".join(lines) + (
        "\n\n`suite VERB --help` tells the rest."
    )  # fmt: skip


def main() -> None:
    from suite.base.cli import open_door

    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        with contextlib.suppress(BrokenPipeError):  # suite | head
            print(usage(), flush=True)
        return
    verb = sys.argv[1].replace("_", "-")
    if verb in ("-V", "--version"):
        from suite import __version__

        print(__version__)
        return
    if verb not in VERBS:
        print(f"error: no verb {sys.argv[1]!r}\n\n{usage()}", file=sys.stderr)
        sys.exit(2)
    door = importlib.import_module(f"suite.{verb.replace('-', '_')}")
    open_door(door.app, sys.argv[2:], f"suite {verb}")


if __name__ == "__main__":
    main()
