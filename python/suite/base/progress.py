"""Progress on long work, on stderr, and silent when nobody watches."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol


class Advance(Protocol):
    def __call__(self, amount: float, note: str = "", total: float | None = None) -> None: ...


@contextlib.contextmanager
def bar(description: str, unit: str) -> Iterator[Advance]:
    """Yields `advance(amount, note, total)`. Shows the amount, and the time left once there is a total, when stderr is
    a terminal."""
    if not sys.stderr.isatty():
        yield lambda amount, note="", total=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:,.0f} " + unit),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=None, note="")
        yield lambda amount, note="", total=None: progress.update(task, advance=amount, note=note, total=total)


def clock(seconds: float) -> str:
    """75 -> 1:15, 5000 -> 1:23:20."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
