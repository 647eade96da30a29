"""A run as it is watched: one live line on a terminal, a line per checkpoint elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from suite.base.progress import clock
from suite.training.config import RunConfig


class Progress:
    """Shows records as they come. Picklable, so that the first rank can show them from a process of its own."""

    def __init__(self, config: RunConfig, quiet: bool) -> None:
        self.name = config.name
        self.quiet = quiet
        self.live = sys.stderr.isatty() and not quiet
        self.validation = ""

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            print(file=sys.stderr)

    def say(self, line: str) -> None:
        if not self.quiet:
            print(line, file=sys.stderr)

    def show(self, record: dict[str, Any]) -> None:
        if self.quiet:
            return
        if "note" in record:
            begins = f"going on from step {record['step']:,}: " if record["step"] else ""
            print(f"{self.name}: {begins}{record['note']}", file=sys.stderr)
        if "validation/loss" in record:
            floor = record.get("validation/floor")
            above = "" if floor is None else f" ({record['validation/loss'] - floor:+.3f} from the floor)"
            self.validation = f"validation {record['validation/loss']:.4f}{above}"
            if not self.live:
                print(f"{self.name}: step {record['step']}: {self.validation}", file=sys.stderr)
        elif "train/loss" in record and self.live:
            line = (
                f"{self.name}: step {record['step']}  loss {record['train/loss']:.4f}  {self.validation}  "
                f"{record['train/tokens_per_second']:,.0f} tokens/s  {clock(record['train/seconds_left'])} left"
            )
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
