"""How every bench reports: one row per figure, a table for people, JSON lines for machines."""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from suite import __version__


@dataclass(frozen=True)
class Row:
    """One figure. `goal` reads ">= 10" or "<= 1.3"; `peer` is what it is compared with."""

    name: str
    value: float
    unit: str
    goal: str | None = None
    peer: str | None = None
    version: str | None = None

    def met(self) -> str:
        if self.goal is None:
            return ""
        sign, number = self.goal.split()
        return "met" if (self.value >= float(number) if sign == ">=" else self.value <= float(number)) else "MISSED"


def arguments(about: str, **more: str) -> argparse.Namespace:
    """--quick and --json, and `more` options with their help, each of which takes a value."""
    parser = argparse.ArgumentParser(description=about)
    for name, help in more.items():
        parser.add_argument(f"--{name}", help=help)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and sizes")
    parser.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    return parser.parse_args()


def show(rows: list[Row], as_json: bool) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(asdict(row)))
        return
    print(f"machine: {machine()}; torch {version('torch')}, suite {__version__}\n")
    print(f"| {'figure':<44} | {'value':>12} | unit | goal | | peer |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        peer = f"{row.peer} {row.version or ''}".strip() if row.peer else ""
        print(f"| {row.name:<44} | {row.value:>12,.2f} | {row.unit} | {row.goal or ''} | {row.met()} | {peer} |")


def machine() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    name = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
    return f"{name}, {lines.count('') or '?'} cores"
