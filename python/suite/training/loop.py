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
from suite.base.tracker import METRICS, Tracker, truncate
from suite.base.world import World, check_device, use_threads
from suite.data.batches import ahead
from suite.models.build import Model, build, initialize, num_parameters
from suite.models.causal import seed_draws
from suite.training import checkpoint, estimate, flops, fork, optim, prepare, pretrained, run, schedule
from suite.training.config import RunConfig
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
    held_out = estimate.HeldOut.of(tokens, "validation", config.eval.rows, tokenizer)
    first = run.first_step(config)
    kept = {first, *(step for step in schedule.checkpoint_steps(config.checkpoints, total_steps) if step > first)}
    stays = {*config.resume.steps, schedule.decay_step(config.schedule, total_steps)}

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
    if world.is_first:
        meter = Meter(config, flops.of_row(model.config, model.vocab_size, tokens.seq_len - 1), world)
        run.begin(config, tokens, start, origin, meter.about)
        _forget(config, start, first, total_steps)
        settings = config.tracker
        tracker = held.enter_context(
            Tracker(config.folder, settings.type, settings.project, config.name, json.loads(config.model_dump_json()))
        )

    def log(at: int, values: dict[str, Any]) -> None:
        if tracker:
            tracker.log(at, values)
            on_record({"step": at, **values})

    milestones = Milestones(config, world, model, tokens, tokenizer, held_out, targets, log, on_record)
    isolate = tokenizer.special if config.data.isolate else None
    update = Update(model, optimizer, config, world, targets.ignore, isolate)

    def keep_resume(at: int) -> None:
        if world.is_first:
            checkpoint.save_resume(config.folder, at, model, optimizer, config.resume.keep, stays)

    validation_loss = math.nan
    if world.is_first:
        on_record({"step": start, "note": _plan(config, model, total_steps, targets, world)})
        for line in origin["differs"] if origin else ():
            on_record({"step": start, "note": f"from {config.from_}, with {line}"})
    if start == first:
        milestones.keep(first)
    held.enter_context(asked_to_stop(world.stop))

    def rows_of(k: int) -> np.ndarray:
        return reading.numbers(k, world.rank, world.size)

    def change(k: int, ids_BT: np.ndarray) -> None:
        reading.change(k, world.rank, world.size, ids_BT)

    batches = held.enter_context(
        ahead(reading.rows, range(start, total_steps), rows_of, world.device, change if config.data.changes else None)
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

    for k in range(start, total_steps):
        at = k + 1
        rate = schedule.learning_rate(k, total_steps, config.optimizer, config.schedule)
        if not under_way:
            read_last = time.monotonic()
        if config.model.type == "hf":  # dropout's; in a tree each slice adds its number
            seed_draws(config.seed, k, 0 if update.in_tree else world.rank)
        under_way.append((at, rate, update(next(batches), targets.of_step(k), rate, bool(world.stop))))
        evaluates = config.eval.every is not None and at % config.eval.every == 0
        patience = min(config.resume.every_seconds, LEAVING_SECONDS) if world.leaving else config.resume.every_seconds
        late = time.monotonic() - last_resume >= patience
        due = at in kept or evaluates or at in stays or late
        while len(under_way) > (0 if due or at >= stop_at else lateness):
            read()
        if at in kept:
            if at == total_steps:  # before the last seal: a finished run can be gone on from
                keep_resume(at)
            validation_loss = milestones.keep(at)
        elif evaluates:
            milestones.evaluate(at)
        if at < total_steps and (late or at in stays or at >= stop_at):
            keep_resume(at)
            last_resume = time.monotonic()
        if stop_at <= at < total_steps:
            world.barrier()  # nobody leaves before the state stands
            raise Interrupted(world.stop[0] if world.stop else run.STOPPED_ELSEWHERE)
    if start == total_steps:
        validation_loss = milestones.keep(total_steps)  # killed between the last resume state and the last seal
    world.barrier()
    return Result(total_steps, validation_loss, held_out.floor)


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


def _forget(config: RunConfig, start: int, first: int, total_steps: int) -> None:
    """Drops the records that this start will write again: those after `start`, and at `start` what comes with a
    checkpoint when that is still to be sealed, which can only be the first or the last."""
    open_end = start in (first, total_steps)
    truncate(
        config.folder / METRICS,
        lambda record: (
            record["step"] <= start and not (open_end and record["step"] == start and "train/loss" not in record)
        ),
    )
    truncate(config.folder / SAMPLES, lambda record: record["step"] <= start - open_end)
