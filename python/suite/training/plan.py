"""What a run will take, before it runs: parameters, FLOPs, steps, checkpoints, disk, memory, time.

Counts follow from the config, and from the tokens where they are there. Seconds follow from `Costs`, which
training/probe.py measures on the machine that asks. Imports no torch.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from suite.data import shards
from suite.models import size
from suite.models.config import LlamaConfig, MambaConfig
from suite.training import flops, prepare, run, schedule
from suite.training.config import RunConfig
from suite.training.targets import mean_per_row

FLOAT_BYTES = 4  # weights, gradients and both moments are float32
STATE_FLOATS = 4  # a parameter's weight, gradient and moments, held while training
RESUME_FLOATS = 3  # its weight and moments, kept to go on from


@dataclass(frozen=True)
class Costs:
    """Of a run's parts in seconds, each as one worker does it, and the most bytes that it held."""

    start: float  # a process, its imports, tokens and model
    step: float
    evaluation: float  # of all held-out rows
    samples: float  # of all prompts, were <eos> never drawn
    checkpoint: float
    resume: float
    peak_bytes: int


@dataclass(frozen=True)
class Plan:
    """`steps`, and what follows from them, is None for epochs of tokens that are still to be made."""

    name: str
    folder: str
    model: str
    parameters: int
    parameters_without_embeddings: int
    flops_per_token: float  # of training
    tokens_per_step: int  # up to; rows of documents may be shorter
    tokens: int | None
    flops: float | None
    steps: int | None
    epochs: float | None
    first_step: int  # 0, or where it is forked: FLOPs and checkpoints are those from there on, tokens those since 0
    from_step: int  # where it goes on; `steps` when it is finished
    evaluations: int  # still to do, those at checkpoints too
    checkpoints: tuple[int, ...]
    checkpoint_bytes: int  # of all of them
    resume_states: int
    resume_bytes: int
    state_bytes: int  # weights, gradients, moments: less than any run of it needs
    missing: tuple[str, ...]  # splits of the tokens that are still to be made
    costs: Costs | None = None
    seconds: float | None = None  # from `from_step` to the end

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def plan_of(config: RunConfig) -> Plan:
    """Of a settled config. Raises what the run would raise for its config and for what lies in its folders."""
    missing = prepare.missing_splits(config)
    tokens = None if missing else prepare.opened(config)[0]
    vocab_size = config.model.vocab_size or (tokens.vocab_size if tokens else config.data.vocab_size)
    counts = _counts(config, vocab_size)
    row = flops.of_row(config.model, vocab_size, config.data.seq_len - 1)
    sequences, steps = config.batch.sequences, _steps(config, tokens)
    first = run.first_step(config)
    kept = schedule.checkpoint_steps(config.checkpoints, steps, config.schedule) if steps else []
    kept = tuple(sorted({first, *(at for at in kept if at > first)})) if steps else ()
    begun = run.stored_environment(config.folder) is not None
    done = run.finished_step(config) if begun else None
    from_step = done if done is not None else max([first, *(run.resume_steps(config.folder) if begun else ())])
    states = config.resume.keep + len([at for at in _staying(config, steps) if at < (steps or 0)])
    per_row = mean_per_row(tokens, "train") if tokens else row.positions
    return Plan(
        name=config.name,
        folder=str(config.folder),
        model=config.model.type,
        parameters=counts["total"],
        parameters_without_embeddings=counts["without_embeddings"],
        flops_per_token=row.training_per_token,
        tokens_per_step=sequences * row.positions,
        tokens=round(steps * sequences * per_row) if steps else None,
        flops=float((steps - first) * sequences * flops.TRAINING * row.forward) if steps else None,
        steps=steps,
        epochs=steps * sequences / tokens.split("train").rows if steps and tokens else config.budget.epochs,
        first_step=first,
        from_step=from_step,
        evaluations=len(_evaluated(config, kept, from_step, steps or 0)),
        checkpoints=kept,
        checkpoint_bytes=len(kept) * counts["total"] * FLOAT_BYTES,
        resume_states=states,
        resume_bytes=states * RESUME_FLOATS * counts["total"] * FLOAT_BYTES,
        state_bytes=STATE_FLOATS * counts["total"] * FLOAT_BYTES,
        missing=tuple(missing),
    )


def _counts(config: RunConfig, vocab_size: int) -> Mapping[str, int]:
    if isinstance(config.model, LlamaConfig | MambaConfig):
        return size.num_parameters(config.model, vocab_size)
    from suite.models.build import build, num_parameters

    return num_parameters(build(config.model, vocab_size, "meta"))  # a type that only its module can count


def _steps(config: RunConfig, tokens: shards.Tokens | None) -> int | None:
    if tokens:
        return run.total_steps(config, tokens)
    if config.budget.epochs is not None:
        return None
    return config.budget.num_steps(0, config.batch.sequences, config.data.seq_len - 1)


def _staying(config: RunConfig, steps: int | None) -> set[int]:
    """Steps whose resume states are kept for good, and the last one."""
    return {*config.resume.steps, schedule.decay_step(config.schedule, steps), steps} if steps else set()


def _to_keep(kept: tuple[int, ...], from_step: int) -> set[int]:
    """Checkpoints that are still to be written; the first one is, where the run begins."""
    return {at for at in kept if at > from_step or at == from_step == kept[0]}


def _evaluated(config: RunConfig, kept: tuple[int, ...], from_step: int, steps: int) -> set[int]:
    every = range(0, steps + 1, config.eval.every) if config.eval.every else ()
    return _to_keep(kept, from_step) | {at for at in every if at > from_step}


def seconds_left(config: RunConfig, plan: Plan, costs: Costs) -> float | None:
    """From where the run stands to its end; 0 when it is finished, None when its steps are not known."""
    if plan.steps is None:
        return None
    steps = plan.steps - plan.from_step
    if not steps:
        return 0.0
    kept = len(_to_keep(plan.checkpoints, plan.from_step))
    spent = costs.start + steps * costs.step + plan.evaluations * costs.evaluation
    spent += kept * (costs.samples + costs.checkpoint)
    every = config.resume.every_seconds
    states = min(steps, (spent / every if every else steps) + len(_staying(config, plan.steps)))
    return spent + states * costs.resume


def makespan(seconds: Sequence[float], processes: int) -> float:
    """When the last one ends, if so many run at a time and the next begins as one ends, in the order given: as
    executor/local.py's side_by_side packs a suite's members."""
    free = [0.0] * processes
    for each in seconds:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)
