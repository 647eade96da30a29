"""One run as it is watched: a live table on a terminal, a line per checkpoint elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from suite.training.board import Standing, table_of
from suite.training.config import RunConfig


class Progress:
    """Shows the records that the run's workers send; what they note stands above the table."""

    def __init__(self, config: RunConfig, quiet: bool) -> None:
        self.standing = Standing(config)
        self.quiet = quiet
        self.live: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.stop()

    def say(self, line: str) -> None:
        if self.live:
            self.live.console.print(line, markup=False, highlight=False)
        elif not self.quiet:
            print(line, file=sys.stderr, flush=True)

    def show(self, record: dict[str, Any]) -> None:
        if self.quiet:
            return
        if not self.standing.total:
            self._begin()
        name, step = self.standing.config.name, record["step"]
        if "note" in record:
            self.say(f"{name}: {f'going on from step {step:,}: ' if step else ''}{record['note']}")
            return
        self.standing.update(record)
        if self.live:
            self.live.update(table_of([self.standing]))
        elif "validation/loss" in record:
            above = self.standing.above()
            floor = f" ({above} from the floor)" if above else ""
            self.say(
                f"{name}: step {step:,}/{self.standing.total:,}: validation {record['validation/loss']:.4f}{floor}"
            )

    def _begin(self) -> None:
        self.standing.count_steps()
        self.standing.state = "starting"
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self.live = Live(table_of([self.standing]), console=Console(stderr=True), refresh_per_second=4)
            self.live.start()
