"""The story of a run: from tokens and a config to sealed checkpoints, resumable at any step.

The loop knows its place among the ranks from `world` and nothing of who started it. All that step k depends on is
the state after step k-1 and the integer k, so a run that is killed anywhere ends in the same bits.

The host never waits for a GPU: while a step runs there, the numbers of the one before it are read, checked and logged.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from suite.base.cli import Interrupted
from suite.base.errors import DivergedError
from suite.base.store import hold
from suite.base.tracker import METRICS, Tracker, read_records, truncate
from suite.base.world import World, check_device, use_threads
from suite.data.batches import ahead
from suite.models.build import Model, build, initialize, num_parameters
from suite.models.causal import seed_draws
from suite.training import checkpoint, estimate, flops, fork, optim, prepare, pretrained, run, schedule
from suite.training.config import RunConfig
from suite.training.early import Patience, replayed
from suite.training.meter import Meter
from suite.training.milestones import Milestones, OnRecord
from suite.training.reading import Reading
from suite.training.run import SAMPLES
from suite.training.stopping import asked_to_stop
from suite.training.targets import Targets
from suite.training.update import Update

LEAVING_SECONDS = 2.0  # between resume states once a machine is known to go


@dataclass(frozen=True)
class Result:
    steps: int
    validation_loss: float
    floor: float | None
    early: bool = False  # by early stopping, before the budget's end


def train(config: RunConfig, world: World, on_record: OnRecord = lambda record: None) -> Result:
    """Trains, or goes on training, the run of a settled config (training/run.py). Every rank calls it.

    Raises SealError when another process trains this run, and DivergedError at the first step whose loss or gradient
    is not finite; the weights before it are kept.
    """
    check_device(world.device)
    with ExitStack() as held:
        if world.is_first:
            held.enter_context(hold(config.folder))
        return _train(config, world, on_record, held)


def _train(config: RunConfig, world: World, on_record: OnRecord, held: ExitStack) -> Result:
    repeatable(config)
    tokens, tokenizer = prepare.opened(config)
    total_steps = run.total_steps(config, tokens)
    reading = Reading(config, tokens, tokenizer)
    most = None if config.eval.rows == "all" else config.eval.rows
    held_out = {name: estimate.HeldOut.of(tokens, name, most, tokenizer) for name in config.eval.splits}
    first = run.first_step(config)
    rates = schedule.in_steps(config, tokens)
    marks = schedule.checkpoint_steps(config.checkpoints, total_steps, rates)
    kept = {first, *(step for step in marks if step > first)}
    stays = {*config.resume.steps, schedule.decay_step(rates, total_steps)} - {total_steps}  # the last is the newest

    model = build(config.model, config.model.vocab_size or tokens.vocab_size)
    if first == 0 and not run.resume_steps(config.folder):
        initialize(model, config.seed, tokenizer.special.pad, optim.base_of(config.optimizer))
        pretrained.begin(model, config)
    if config.batch.gradient_checkpointing:
        model.use_gradient_checkpointing()
    model.to(world.device).train()
    optimizer = optim.adamw(model, config.optimizer)
    start, origin = checkpoint.load_resume(config.folder, model, optimizer), None
    if start < first:
        start, origin = first, fork.begin(config, tokenizer.sha256, model, optimizer)
    targets = reading.targets

    tracker = meter = None
    patience, ended = _patience(config, start, first, world)
    ended = ended or start == total_steps
    if world.is_first:
        meter = Meter(config, flops.of_row(model.config, model.vocab_size, tokens.seq_len - 1), world)
        run.begin(config, tokens, start, origin, meter.about)
        _forget(config, start, open_end=ended or start == first)
        settings = config.tracker
        tracker = held.enter_context(
            Tracker(config.folder, settings.type, settings.project, config.name, json.loads(config.model_dump_json()))
        )

    def log(at: int, values: dict[str, Any]) -> None:
        if tracker:
            tracker.log(at, values)
            on_record({"step": at, **values})

    milestones = Milestones(config, world, model, tokens, tokenizer, held_out, targets, tracker, on_record)
    isolate = tokenizer.special if config.data.isolate else None
    update = Update(model, optimizer, config, world, targets.ignore, isolate)

    def keep_resume(at: int) -> None:
        if world.is_first:
            checkpoint.save_resume(config.folder, at, model, optimizer, config.resume.keep, stays)

    def milestone(at: int) -> bool:
        """Evaluates, writes samples and keeps what is due after step `at`; says whether the run ends with it."""
        nonlocal validation_loss
        ends = at == total_steps
        if at in kept or _every(config.eval.every, at):
            validation_loss = milestones.evaluate(at)
            ends = patience.ends_with(validation_loss) or ends
        keeps = ends or at in kept
        if keeps or _every(config.samples.every, at):
            milestones.write_samples(at)
        if keeps:
            if ends:  # before the last seal: a finished run can be gone on from
                keep_resume(at)
            milestones.keep(at, validation_loss)
        return ends

    validation_loss = math.nan
    if world.is_first:
        on_record({"step": start, "note": _plan(config, model, total_steps, targets, world)})
        for line in origin["differs"] if origin else ():
            on_record({"step": start, "note": f"from {config.from_}, with {line}"})
    if start == first or ended:  # ended: killed between the last resume state and the last seal
        milestone(start)
    held.enter_context(asked_to_stop(world.stop))

    def rows_of(k: int) -> np.ndarray:
        return reading.numbers(k, world.rank, world.size)

    def change(k: int, ids_BT: np.ndarray) -> None:
        reading.change(k, world.rank, world.size, ids_BT)

    batches = held.enter_context(
        ahead(reading.rows, range(start, total_steps), rows_of, world.device, change if reading.is_changed else None)
    )
    last_resume = began = read_last = time.monotonic()
    under_way: deque[tuple[int, float, torch.Tensor]] = deque()
    lateness = 0 if world.device == "cpu" else 1  # a GPU is kept busy while the host reads
    stop_at = total_steps

    def read() -> None:
        """Waits for the oldest step under way, and logs it."""
        nonlocal read_last, stop_at
        at, rate, numbers = under_way.popleft()
        nats, grad_norm, stops = numbers.tolist()
        global_targets = targets.of_step(at - 1)
        loss = nats / global_targets
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise DivergedError(
                f"{config.folder}: step {at}: loss {loss}, gradient norm {grad_norm}: not finite; the weights "
                "before this step are kept. A lower optimizer.learning_rate or a longer schedule.warmup_steps may help"
            )
        if stops:  # a step that follows from the numbers alone: ranks may read them at different moments
            stop_at = min(stop_at, at + lateness)
        before, read_last = read_last, time.monotonic()
        log(
            at,
            {
                "train/loss": loss,
                "train/learning_rate": rate,
                "train/grad_norm": grad_norm,
                "train/tokens": targets.before(at),
                "train/tokens_per_second": global_targets / (read_last - before),
                "train/step_seconds": read_last - before,
                "train/seconds_left": (total_steps - at) * (read_last - began) / (at - start),
                **(meter.read(global_targets, read_last - before) if meter else {}),
            },
        )

    at = start
    for k in range(start, start if ended else total_steps):
        at = k + 1
        rate = schedule.learning_rate(k, total_steps, config.optimizer, rates)
        if not under_way:
            read_last = time.monotonic()
        if config.model.type == "hf":  # dropout's; in a tree each slice adds its number
            seed_draws(config.seed, k, 0 if update.in_tree else world.rank)
        under_way.append((at, rate, update(next(batches), targets.of_step(k), rate, bool(world.stop))))
        seconds = config.resume.every_seconds
        late = time.monotonic() - last_resume >= (min(seconds, LEAVING_SECONDS) if world.leaving else seconds)
        measured = at in kept or _every(config.eval.every, at) or _every(config.samples.every, at)
        due = measured or at in stays or late
        while len(under_way) > (0 if due or at >= stop_at else lateness):
            read()
        if measured and milestone(at):
            break
        if at < total_steps and (late or at in stays or at >= stop_at):
            keep_resume(at)
            last_resume = time.monotonic()
        if stop_at <= at < total_steps:
            world.barrier()  # nobody leaves before the state stands
            raise Interrupted(world.stop[0] if world.stop else run.STOPPED_ELSEWHERE)
    world.barrier()
    return Result(at, validation_loss, held_out["validation"].floor, early=at < total_steps)


def _every(steps: int | None, at: int) -> bool:
    return steps is not None and at % steps == 0


def _patience(config: RunConfig, start: int, first: int, world: World) -> tuple[Patience, bool]:
    """Early stopping as it stood after step `start`, the same on every rank, and whether it ended the run there.

    The first rank alone reads the records: it is also the one that drops some of them.
    """
    patience = Patience(config.early_stopping)
    if start == first:
        return patience, False
    state = torch.zeros(3, dtype=torch.float64, device=world.device)
    if world.is_first:
        records = [record for record in read_records(config.folder / METRICS) if record["step"] <= start]
        patience, ended = replayed(config.early_stopping, records)
        state += torch.tensor([patience.best, patience.waited, ended == start], dtype=torch.float64)
    world.sum(state)
    patience.best, patience.waited = float(state[0]), int(state[1])
    return patience, bool(state[2])


def repeatable(config: RunConfig) -> None:
    """Fixes what bits depend on beside the numbers themselves."""
    assert config.threads is not None, "the config must be settled"
    use_threads(config.threads)
    deterministic = config.precision.deterministic or config.precision.reproducible is not None
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, and reads it once
    torch.use_deterministic_algorithms(deterministic)
    # Nothing reads memory unwritten, so filling it with NaN first is a pass for nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.manual_seed(config.seed)


def _plan(config: RunConfig, model: Model, total_steps: int, targets: Targets, world: World) -> str:
    threads = f", {config.threads} threads" if world.device == "cpu" and config.threads != 1 else ""
    return (
        f"{num_parameters(model)['total']:,} parameters, {total_steps:,} steps of "
        f"{'up to ' * (targets.counts is not None)}{targets.sequences * targets.per_row:,} tokens on "
        f"{world.device}{threads}" + (f", {world.size} workers" if world.size > 1 else "")
    )


def _forget(config: RunConfig, start: int, open_end: bool) -> None:
    """Drops the records that this start will write again: those after `start`, and at `start` what comes with a
    checkpoint when that is still to be sealed, which can only be the first or the last."""
    truncate(
        config.folder / METRICS,
        lambda record: (
            record["step"] <= start and not (open_end and record["step"] == start and "train/loss" not in record)
        ),
    )
    truncate(config.folder / SAMPLES, lambda record: record["step"] <= start - open_end)
