"""A sweep as it is watched and read: one line while it runs, tables and TOML to paste when it is done."""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from suite.base.errors import ConfigError
from suite.base.progress import clock
from suite.training import sweep
from suite.training.config import RunConfig, load_run
from suite.training.rates import Law

FAR = 10.0  # times the largest size that was swept; beyond it a rule is a guess, and is called one


class Standing:
    """One live line on a terminal; elsewhere a line for each run that ends."""

    def __init__(self, runs: list[RunConfig], begun: Any) -> None:
        self.runs, self.begun = runs, begun
        self.ended: dict[int, float] = {}
        self.since = time.monotonic()
        self.status: Any = None

    def __enter__(self) -> Standing:
        if sys.stdout.isatty():
            from rich.console import Console

            self.status = Console().status("starting")
            self.status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.status:
            self.status.stop()
        if error is None:
            self.refresh()

    def refresh(self) -> None:
        for number in range(min(self.begun.value, len(self.runs))):
            if number in self.ended or (loss := sweep.loss_of(self.runs[number])) is None:
                continue
            self.ended[number] = loss
            said = "diverged" if math.isinf(loss) else f"loss {loss:.4f}"
            line = f"{len(self.ended)} of {len(self.runs)}, {self._left()} left: {self.runs[number].name}: {said}"
            if self.status:
                self.status.update(line)
            else:
                print(line, flush=True)

    def _left(self) -> str:
        passed = time.monotonic() - self.since
        return clock(passed / len(self.ended) * (len(self.runs) - len(self.ended)))


def larger_of(files: list[Path], overrides: list[str]) -> list[tuple[Path, RunConfig]]:
    return [(file, load_run([file], overrides)) for file in files]


def size_of(config: RunConfig, over: str) -> int:
    """Parameters without embeddings, or width. Builds nothing but the shapes."""
    if over == "width" and (width := sweep.width_of(config)) is not None:
        return width
    from suite.models.build import build, num_parameters

    return num_parameters(build(config.model, config.model.vocab_size or config.data.vocab_size, "meta"))[
        "without_embeddings"
    ]


def show(found: list[dict[str, Any]], rules: dict[str, Law | None], larger: list[tuple[Path, RunConfig]],
         over: str) -> None:  # fmt: skip
    """Losses by rate, the best rate of each size, the rule of each family, and what it says of larger sizes."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    losses = Table(box=None, pad_edge=False, title="held-out loss, mean over seeds", title_justify="left")
    losses.add_column("rate", justify="right")
    for entry in found:
        losses.add_column(entry["member"], justify="right")
    for rate in sorted({rate for entry in found for rate in entry["losses"]}):
        losses.add_row(f"{rate:.2e}", *(_mean(entry["losses"].get(rate, [])) for entry in found))
    console.print(losses)
    table = Table(box=None, pad_edge=False)
    for heading in ("size", over, "best rate", "90 % interval", "loss there", ""):
        table.add_column(heading, justify="left" if heading in ("size", "") else "right")
    for entry in found:
        best = entry["best"]
        table.add_row(
            entry["member"],
            f"{entry['size']:,}",
            f"{best.rate:.2e}",
            f"{_end(best.low)} to {_end(best.high)}",
            f"{best.loss:.4f}",
            best.why and f"no estimate: {best.why}",
        )
    console.print()
    console.print(table)
    for kind, law in rules.items():
        if law is None:
            console.print(f"\n{kind}: no rule: it needs two sizes with an estimate and its interval")
            continue
        console.print(
            f"\n{kind}: rate = {law.scale:.2e} * ({over} / {law.centre:,.0f})^{law.exponent:+.3f}, exponent "
            f"+-{law.exponent_error:.3f} at 90 %, from sizes up to {law.largest:,}"
        )
        for file, config in larger:
            if config.model.type == kind:
                console.print(_said(file, config, law, over), markup=False)
    console.print("\nready to paste:")
    for entry in found:
        if not entry["best"].why:
            console.print(_toml(entry["member"], entry["best"].rate), markup=False)
    for _, config in larger:
        if law := rules.get(config.model.type):
            console.print(_toml(config.name, law.at(size_of(config, over))[0]), markup=False)


def _said(file: Path, config: RunConfig, law: Law, over: str) -> str:
    size = size_of(config, over)
    rate, low, high = law.at(size)
    times = size / law.largest
    far = f"; {times:,.0f} times the largest size swept: a guess" if times > FAR else ""
    return f"  {file.stem}: {rate:.2e} ({low:.2e} to {high:.2e} if the rule goes on){far}"


def _toml(member: str, rate: float) -> str:
    return f"[optimizer]\nlearning_rate = {float(f'{rate:.2g}'):.1e}  # {member}"


def _mean(losses: list[float | None]) -> str:
    finite = [loss for loss in losses if loss is not None]
    if not losses:
        return ""
    return "diverged" if len(finite) < len(losses) else f"{sum(finite) / len(finite):.4f}"


def _end(rate: float | None) -> str:
    return "?" if rate is None else f"{rate:.2e}"


def show_coordinates(config: RunConfig, widths: list[int], steps: int) -> None:
    """The change of every layer's output at each width, with the exponent of width in it, of both parametrizations."""
    import numpy as np
    import torch
    from rich.console import Console
    from rich.table import Table

    from suite.data.batches import batch_rows
    from suite.training import coordinates, prepare

    tokens, _ = prepare.opened(config)
    rows = tokens.rows("train")
    numbers = batch_rows(0, 0, 1, config.batch.sequences, len(rows), config.data.order_seed)
    ids_BT = torch.from_numpy(np.asarray(rows[numbers]).astype(np.int64))
    vocab_size = config.model.vocab_size or tokens.vocab_size
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for parametrization in ("standard", "mup"):
        found = coordinates.check(config, parametrization, widths, ids_BT, vocab_size, steps)
        table = Table(box=None, pad_edge=False, title_justify="left")
        table.title = f"{config.name}, {parametrization}: mean |x_{steps} - x_0|"
        for heading in ("width", *map(str, widths), "exponent"):
            table.add_column(heading, justify="right")
        for layer in found[widths[0]].change:
            changes = {width: found[width].change[layer] for width in widths}
            if not all(0 < change < math.inf for change in changes.values()):
                raise ConfigError(
                    f"optimizer.learning_rate: {config.optimizer.learning_rate}: {layer} is not finite after {steps} "
                    "updates; check at a lower one"
                )
            table.add_row(layer, *(f"{value:.4f}" for value in changes.values()), f"{coordinates.slope(changes):+.2f}")
        console.print(table)
