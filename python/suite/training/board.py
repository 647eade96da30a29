"""Runs side by side as they are watched: one line each, read from what the runs write.

The board reads metrics.jsonl and samples.jsonl and nothing else, so it shows any run, wherever it is trained.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from suite.base.tracker import METRICS, read_records
from suite.base.world import World
from suite.data import shards
from suite.training import run
from suite.training.config import RunConfig
from suite.training.run import SAMPLES


def train_alone(config: RunConfig) -> Any:
    """One run, in the process it is called in."""
    from suite.training.loop import train

    return train(config, World(device=config.device))


def latest(config: RunConfig) -> dict[str, Any]:
    """The newest value of every metric, and the newest sample."""
    found: dict[str, Any] = {}
    for record in read_records(config.folder / METRICS):
        found.update(record)
    samples = read_records(config.folder / SAMPLES)
    last = samples[-1] if samples else {"prompt": "", "text": "", "step": 0}
    return {**found, "sample": last["prompt"] + last["text"], "sampled_at": last["step"]}


class Board:
    """A live table on a terminal; elsewhere a line for each new validation loss."""

    def __init__(self, runs: Sequence[RunConfig]) -> None:
        self.runs = runs
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
            self.refresh([True] * len(self.runs))
            self.live.stop()

    def refresh(self, begun: list[bool]) -> None:
        if self.live:
            self.live.update(self._table(begun))
            return
        for config, total in zip(self.runs, self.steps, strict=True):
            now = latest(config)
            at = now.get("step", 0)
            if "validation/loss" in now and (config.name, now["sampled_at"]) not in self.said:
                self.said.add((config.name, now["sampled_at"]))
                print(
                    f"{config.name:<18} step {at:>6,}/{total:,}  loss {now['validation/loss']:.3f}{_above(now)}  "
                    f"{now.get('train/tokens_per_second', 0):>7,.0f} tokens/s  {_clock(now)} left  {_short(now, 60)}",
                    flush=True,
                )

    def _table(self, begun: list[bool]) -> Any:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, expand=True)
        for name in ("run", "step", "loss", "above floor", "tokens/s", "left"):
            table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
        table.add_column("writes", no_wrap=True, ratio=1, overflow="ellipsis")
        for config, total, started in zip(self.runs, self.steps, begun, strict=True):
            now = latest(config) if started else {}
            if "validation/loss" not in now:
                table.add_row(config.name, "starting" if started else "waiting", "", "", "", "", "")
                continue
            table.add_row(
                config.name,
                f"{now['step']:,}/{total:,}",
                f"{now.get('train/loss', now['validation/loss']):.3f}",
                _above(now).strip(),
                f"{now.get('train/tokens_per_second', 0):,.0f}",
                _clock(now),
                _short(now, 200),
            )
        return table


def _above(now: dict[str, Any]) -> str:
    return f" {now['validation/loss'] - now['validation/floor']:+.3f}" if "validation/floor" in now else ""


def _clock(now: dict[str, Any]) -> str:
    minutes, seconds = divmod(int(now.get("train/seconds_left", 0)), 60)
    return f"{minutes}:{seconds:02d}"


def _short(now: dict[str, Any], length: int) -> str:
    return " ".join(now["sample"].split())[:length]


def print_summary(runs: Sequence[RunConfig]) -> None:
    """A table of runs, and a text from each that wrote one."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(box=None, pad_edge=False)
    for name in ("run", "parameters", "step", "tokens", "loss", "floor", "above"):
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
    texts = []
    for config in runs:
        now = latest(config)
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
