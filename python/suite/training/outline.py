"""A plan as people read it: lines for a run, which `suite train --dry-run` prints too, and a table for a suite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from suite.base.progress import clock
from suite.data import tokenizer
from suite.training import prepare
from suite.training.config import RunConfig
from suite.training.plan import Plan


def outline(config: RunConfig, plan: Plan, executor: str) -> list[tuple[str, str]]:
    """Pairs of a heading and a line, for a settled config and its plan. Raises ConfigError for what Ray cannot give."""
    if executor == "ray":
        config.check_for_ray()
    lines = [
        ("run", plan.folder),
        (
            "model",
            f"{plan.model}, {plan.parameters:,} parameters, {plan.parameters_without_embeddings:,} without embeddings",
        ),
        ("tokens", _tokens(config, plan)),
    ]
    if plan.steps:
        lines += [
            (
                "budget",
                f"{plan.steps:,} steps of {plan.tokens_per_step:,} tokens: {plan.tokens:,} tokens"
                + (f", {plan.epochs:.2f} epochs" if plan.epochs is not None and not plan.missing else ""),
            ),
            ("flops", f"{_scaled(plan.flops)}, {_scaled(plan.flops_per_token)} a token"),
            ("checkpoints", f"{len(plan.checkpoints)}: {_shortened(plan.checkpoints)}"),
            ("disk", f"{_size(plan.checkpoint_bytes)} of checkpoints, {_size(plan.resume_bytes)} to resume from"),
        ]
    else:
        lines.append(("budget", f"{config.budget.epochs:g} epochs of rows that are still to be counted"))
        lines.append(("flops", f"{_scaled(plan.flops_per_token)} a token"))
    lines.append(("memory", _memory(plan)))
    if plan.costs:
        lines.append(("time", _time(plan)))
    begun = plan.from_step > plan.first_step
    begins = f"goes on from step {plan.from_step:,}" if begun else f"begins at step {plan.first_step:,}"
    if plan.steps and plan.from_step == plan.steps:
        begins = f"finished at step {plan.steps:,}"
    return [*lines, ("workers", _workers(config, executor)), ("this run", begins)]


def table_of(plans: Sequence[Plan]) -> Any:
    """A rich table: a row for each plan, and their sum."""
    from rich.table import Table

    probed = any(plan.costs or plan.seconds is not None for plan in plans)
    table = Table(box=None, pad_edge=False)
    for name in ("run", "parameters", "w/o embed.", "FLOPs/token", "FLOPs", "tokens", "steps", "epochs", "checkpoints"):
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
    for name in ("disk", "memory", *(["step", "time"] if probed else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for plan in plans:
        finished = plan.from_step == plan.steps
        table.add_row(
            plan.name,
            f"{plan.parameters:,}",
            f"{plan.parameters_without_embeddings:,}",
            _scaled(plan.flops_per_token),
            _scaled(plan.flops),
            _scaled(plan.tokens),
            "" if plan.steps is None else f"{plan.steps:,}",
            "" if plan.epochs is None else f"{plan.epochs:.2f}",
            str(len(plan.checkpoints) or ""),
            _size(plan.checkpoint_bytes + plan.resume_bytes),
            _size(plan.costs.peak_bytes) if plan.costs else f"> {_size(plan.state_bytes)}",
            *([_milliseconds(plan), "finished" if finished else _clock(plan.seconds)] if probed else []),
        )
    if len(plans) > 1:
        known = [plan for plan in plans if plan.flops is not None and plan.tokens is not None]
        seconds = [plan.seconds for plan in plans if plan.seconds is not None]
        table.add_row(
            "total",
            f"{sum(plan.parameters for plan in plans):,}",
            f"{sum(plan.parameters_without_embeddings for plan in plans):,}",
            "",
            _scaled(sum(plan.flops or 0 for plan in known)),
            _scaled(sum(plan.tokens or 0 for plan in known)),
            f"{sum(plan.steps or 0 for plan in known):,}",
            "",
            str(sum(len(plan.checkpoints) for plan in plans)),
            _size(sum(plan.checkpoint_bytes + plan.resume_bytes for plan in plans)),
            "",
            *(["", _clock(sum(seconds))] if probed else []),
        )
    return table


def _tokens(config: RunConfig, plan: Plan) -> str:
    data, folder = config.data, config.path(config.data.tokens)
    if not plan.missing:
        tokens = prepare.opened(config)[0]
        rows = ", ".join(f"{tokens.split(name).rows:,} rows of {name}" for name in ("train", "validation"))
        return f"{folder}: {rows}, {tokens.seq_len} tokens each"
    home = prepare.tokenizer_folder(config)
    made = "" if tokenizer.is_there(home) else f", after a tokenizer of {data.vocab_size:,} tokens in {home}"
    return f"{folder}: {' and '.join(plan.missing)} to be made from {data.source}{made}"


def _memory(plan: Plan) -> str:
    states = f"{_size(plan.state_bytes)} of weights, gradients and moments"
    return f"{_size(plan.costs.peak_bytes)} at most in each worker, {states}" if plan.costs else states


def _time(plan: Plan) -> str:
    assert plan.costs
    each = (
        f"{_milliseconds(plan)} a step, {plan.costs.evaluation:.2f} s an evaluation, "
        f"{plan.costs.samples + plan.costs.checkpoint:.2f} s a checkpoint beside it"
    )
    if plan.seconds is None:
        return each
    made = ", after the tokens are made" if plan.missing else ""
    return f"{_clock(plan.seconds)}{made}: {each}, {plan.costs.start:.1f} s to start"


def _workers(config: RunConfig, executor: str) -> str:
    number, threads = config.num_workers, config.threads or 1
    each = f"{threads} thread{'s' * (threads > 1)}, {config.device}, {config.precision.dtype}"
    if executor == "ray":
        each += ", " + " and ".join(f"{amount:g} {name}" for name, amount in config.worker_resources.items())
    return f"{number}, {executor}: {each}{' each' * (number > 1)}"


def _milliseconds(plan: Plan) -> str:
    if plan.costs is None:
        return ""
    return f"{plan.costs.step * 1e3:,.3g} ms" if plan.costs.step < 1 else f"{plan.costs.step:,.3g} s"


def _clock(seconds: float | None) -> str:
    return "" if seconds is None else clock(round(seconds))


def _shortened(steps: Sequence[int]) -> str:
    shown = [f"{step:,}" for step in steps]
    return ", ".join(shown if len(shown) <= 9 else [*shown[:5], "...", *shown[-3:]])


def _scaled(number: float | None) -> str:
    """1.23e15 -> 1.23 P."""
    if number is None:
        return ""
    scales = ((1e18, " E"), (1e15, " P"), (1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (1, ""))
    scale, name = next((one for one in scales if number >= one[0]), (1, ""))
    return f"{number / scale:.3g}{name}"


def _size(size: int) -> str:
    unit, scale = next(((unit, scale) for unit, scale in (("GB", 1e9), ("MB", 1e6)) if size >= scale), ("kB", 1e3))
    return f"{size / scale:.3g} {unit}"
