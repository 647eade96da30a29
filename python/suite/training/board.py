"""Runs as they are watched: a line each, in a table that stays on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any

from suite.base.progress import clock
from suite.base.tracker import METRICS, Follower
from suite.data import shards
from suite.training import run
from suite.training.config import RunConfig


class Standing:
    """Where a run is: its newest values, kept up to date by its records."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.total = 0  # steps; known once the tokens are there
        self.state = "waiting"
        self.now: dict[str, Any] = {"sample": "", "written": "", "rate": 0.0}

    def update(self, record: dict[str, Any]) -> None:
        """`now` has the newest value of every metric; `validated_at`, the step of the newest validation; the newest
        `sample`, and what of it the model `written`."""
        if "text" in record:
            self.now["sample"], self.now["written"] = record["prompt"] + record["text"], record["text"]
            return
        self.now.update(record)
        if rate := record.get("train/tokens_per_second"):  # smoothed over about 20 steps: single ones jump
            self.now["rate"] += (rate - self.now["rate"]) * (0.05 if self.now["rate"] else 1.0)
        if "validation/loss" in record:
            self.now["validated_at"] = record["step"]

    def count_steps(self) -> None:
        self.total = run.total_steps(self.config, shards.read(self.config.path(self.config.data.tokens)))

    def above(self) -> str:
        now = self.now
        return f"{now['validation/loss'] - now['validation/floor']:+.3f}" if "validation/floor" in now else ""

    def writes(self, length: int) -> str:
        return " ".join(self.now["written"].split())[:length]

    def row(self) -> list[str]:
        now = self.now
        if "validation/loss" not in now:
            return [self.config.name, self.state, *[""] * 6]
        return [
            self.config.name,
            f"{now['step']:,}/{self.total:,}",
            f"{now['train/loss']:.3f}" if "train/loss" in now else "",
            f"{now['validation/loss']:.3f}",
            self.above(),
            f"{now['rate']:,.0f}",
            clock(now.get("train/seconds_left", 0)),
            self.writes(200),
        ]


class Watched(Standing):
    """Kept up to date by what the run's files have gained: it shows any run, wherever it is trained."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self.metrics = Follower(config.folder / METRICS)
        self.samples = Follower(config.folder / run.SAMPLES)

    def read(self) -> None:
        for record in [*self.metrics.more(), *self.samples.more()]:
            self.update(record)


def table_of(standings: Iterable[Standing]) -> Any:
    """A rich table with a row for each run."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, expand=True)
    for name in ("run", "step", "train loss", "held-out loss", "above floor", "tokens/s", "left"):
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
    table.add_column("writes", no_wrap=True, ratio=1, overflow="ellipsis")
    for standing in standings:
        table.add_row(*standing.row())
    return table


class Board:
    """A live table of runs side by side on a terminal; elsewhere a line for each new validation loss."""

    def __init__(self, runs: Sequence[RunConfig]) -> None:
        self.runs = [Watched(one) for one in runs]
        for watched in self.runs:
            watched.count_steps()
        self.said: set[tuple[str, int]] = set()
        self.live: Any = None

    def __enter__(self) -> Board:
        if sys.stdout.isatty():
            from rich.live import Live

            self.live = Live(refresh_per_second=4)
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            if error is None:
                self.refresh([True] * len(self.runs))
            self.live.stop()

    def refresh(self, begun: list[bool]) -> None:
        for watched, started in zip(self.runs, begun, strict=True):
            if started:
                watched.state = "starting"
                watched.read()
        if self.live:
            self.live.update(table_of(self.runs))
            return
        for watched in self.runs:
            now, name = watched.now, watched.config.name
            at = now.get("validated_at")
            if at is not None and (name, at) not in self.said:
                self.said.add((name, at))
                print(
                    f"{name:<18} step {at:>6,}/{watched.total:,}  loss {now['validation/loss']:.3f} {watched.above()}  "
                    f"{now['rate']:>7,.0f} tokens/s  {clock(now.get('train/seconds_left', 0))} left  "
                    f"{watched.writes(60)}",
                    flush=True,
                )


def print_summary(runs: Sequence[RunConfig]) -> None:
    """A table of runs, and a text from each that wrote one."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("run", "parameters", "step", "tokens", "held-out loss", "floor", "above floor"):
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
    texts = []
    for config in runs:
        watched = Watched(config)
        watched.read()
        now = watched.now
        steps = run.steps_in(config.folder)
        if not steps or "validation/loss" not in now:
            table.add_row(config.name, "", "not trained")
            continue
        manifest = run.manifest_of(config.folder, steps[-1])
        floor = now.get("validation/floor")
        table.add_row(
            config.name,
            f"{manifest['parameters']['total']:,}",
            f"{steps[-1]:,}",
            f"{manifest['tokens']:,}",
            f"{now['validation/loss']:.3f}",
            "" if floor is None else f"{floor:.3f}",
            watched.above(),
        )
        if now["sample"]:
            texts.append((config.folder, now["sample"]))
    console.print(table)
    for folder, text in texts:
        console.print(f"\n[bold]{folder}[/bold]", soft_wrap=True)
        console.print(text, markup=False)
