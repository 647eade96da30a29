"""Runs side by side as they are watched: one line each, read from what the runs write.

The board reads metrics.jsonl and samples.jsonl and nothing else, so it shows any run, wherever it is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from suite.base.progress import clock
from suite.base.tracker import METRICS, Follower
from suite.data import shards
from suite.training import run
from suite.training.config import RunConfig


class Watched:
    """A run's newest values, kept up to date by reading what its files have gained."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.metrics = Follower(config.folder / METRICS)
        self.samples = Follower(config.folder / run.SAMPLES)
        self.now: dict[str, Any] = {"sample": "", "written": "", "rate": 0.0}

    def latest(self) -> dict[str, Any]:
        """The newest value of every metric; `validated_at`, the step of the newest validation; the newest `sample`."""
        for record in self.metrics.more():
            self.now.update(record)
            if rate := record.get("train/tokens_per_second"):  # smoothed over about 20 steps: single ones jump
                self.now["rate"] += (rate - self.now["rate"]) * (0.05 if self.now["rate"] else 1.0)
            if "validation/loss" in record:
                self.now["validated_at"] = record["step"]
        for record in self.samples.more():
            self.now["sample"], self.now["written"] = record["prompt"] + record["text"], record["text"]
        return self.now


class Board:
    """A live table on a terminal; elsewhere a line for each new validation loss."""

    def __init__(self, runs: Sequence[RunConfig]) -> None:
        self.runs = [Watched(one) for one in runs]
        self.steps = [run.total_steps(one, shards.read(one.path(one.data.tokens))) for one in runs]
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
        if self.live:
            self.live.update(self._table(begun))
            return
        for watched, total in zip(self.runs, self.steps, strict=True):
            now, name = watched.latest(), watched.config.name
            at = now.get("validated_at")
            if at is not None and (name, at) not in self.said:
                self.said.add((name, at))
                print(
                    f"{name:<18} step {at:>6,}/{total:,}  loss {now['validation/loss']:.3f}{_above(now)}  "
                    f"{now['rate']:>7,.0f} tokens/s  {clock(now.get('train/seconds_left', 0))} left  {_short(now, 60)}",
                    flush=True,
                )

    def _table(self, begun: list[bool]) -> Any:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, expand=True)
        for name in ("run", "step", "train loss", "held-out loss", "above floor", "tokens/s", "left"):
            table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
        table.add_column("writes", no_wrap=True, ratio=1, overflow="ellipsis")
        for watched, total, started in zip(self.runs, self.steps, begun, strict=True):
            now, name = watched.latest() if started else {}, watched.config.name
            if "validation/loss" not in now:
                table.add_row(name, "starting" if started else "waiting", *[""] * 6)
                continue
            table.add_row(
                name,
                f"{now['step']:,}/{total:,}",
                f"{now['train/loss']:.3f}" if "train/loss" in now else "",
                f"{now['validation/loss']:.3f}",
                _above(now).strip(),
                f"{now['rate']:,.0f}",
                clock(now.get("train/seconds_left", 0)),
                _short(now, 200),
            )
        return table


def _above(now: dict[str, Any]) -> str:
    return f" {now['validation/loss'] - now['validation/floor']:+.3f}" if "validation/floor" in now else ""


def _short(now: dict[str, Any], length: int) -> str:
    return " ".join(now["written"].split())[:length]


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
        now = Watched(config).latest()
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
            _above(now).strip(),
        )
        if now["sample"]:
            texts.append((config.folder, now["sample"]))
    console.print(table)
    for folder, text in texts:
        console.print(f"\n[bold]{folder}[/bold]", soft_wrap=True)
        console.print(text, markup=False)
