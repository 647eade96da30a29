"""The story of a run: from tokens and a config to sealed checkpoints, resumable at any step.

The loop knows its place among the ranks from `world` and nothing of who started it. All that step k depends on is
the state after step k-1 and the integer k, so a run that is killed anywhere ends in the same bits.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from suite.base.cli import Interrupted
from suite.base.errors import DivergedError
from suite.base.store import hold
from suite.base.tracker import METRICS, Tracker, truncate
from suite.base.world import World, check_device, use_threads
from suite.data.batches import ahead, batch_rows
from suite.models.build import Model, build, initialize, num_parameters
from suite.models.sampling import sample
from suite.training import checkpoint, estimate, optim, prepare, run, schedule, step
from suite.training.config import RunConfig
from suite.training.run import SAMPLES
from suite.training.targets import Targets

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

OnRecord = Callable[[dict[str, Any]], None]


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
    assert config.threads is not None and config.batch.micro_sequences is not None, "the config must be settled"
    use_threads(config.threads)
    if config.precision.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it, and reads it once
    torch.use_deterministic_algorithms(config.precision.deterministic)
    torch.manual_seed(config.seed)

    tokens, tokenizer = prepare.opened(config)
    total_steps = run.total_steps(config, tokens)
    rows = tokens.rows("train")
    held_out = estimate.HeldOut.of(tokens, "validation", config.eval.rows, tokenizer)
    kept = set(schedule.checkpoint_steps(config.checkpoints, total_steps))

    model = build(config.model, config.model.vocab_size or tokens.vocab_size)
    initialize(model, config.seed, tokenizer.special.pad)
    model.to(world.device).train()
    optimizer = optim.adamw(model, config.optimizer)
    start = checkpoint.load_resume(config.folder, model, optimizer)
    dtype = DTYPES[config.precision.dtype]
    targets = Targets.of(tokens, "train", config.batch.sequences, config.data.order_seed)

    tracker = None
    if world.is_first:
        run.begin(config, tokens, start)
        _forget(config, start, total_steps)
        settings = config.tracker
        tracker = held.enter_context(
            Tracker(config.folder, settings.type, settings.project, config.name, json.loads(config.model_dump_json()))
        )

    def log(at: int, values: dict[str, Any]) -> None:
        if tracker:
            tracker.log(at, values)
            on_record({"step": at, **values})

    def evaluate(at: int) -> float:
        loss = estimate.loss(model, held_out, world)
        floor = {} if held_out.floor is None else {"validation/floor": held_out.floor}
        log(at, {"validation/loss": loss, **floor})
        return loss

    def write_samples(at: int) -> None:
        settings = config.samples
        model.eval()
        with (config.folder / SAMPLES).open("a", encoding="utf-8", buffering=1) as file:
            for prompt in settings.prompts:
                text = tokenizer.decode(
                    sample(
                        model,
                        [tokenizer.special.bos, *tokenizer.encode(prompt)],
                        max_new_tokens=settings.max_new_tokens,
                        context=tokens.seq_len - 1,  # what training feeds: a row without its last token
                        eos=tokenizer.special.eos,
                        temperature=settings.temperature,
                        top_k=settings.top_k,
                        seed=config.seed,
                    )
                )
                record = {"step": at, "prompt": prompt, "text": text}
                file.write(json.dumps(record) + "\n")
                on_record(record)
        model.train()

    def keep(at: int) -> float:
        """This step's checkpoint: loss and samples first; its seal last, because the last seal ends the run."""
        loss = evaluate(at)
        if world.is_first:
            write_samples(at)
            about = {
                "run": config.name,
                "tokens": targets.before(at),
                "validation_loss": loss,
                "seq_len": tokens.seq_len,
                "parameters": num_parameters(model),
                "tokenizer_sha256": tokenizer.sha256,
            }
            checkpoint.save_checkpoint(config.folder, at, model, tokenizer, tokens.seq_len, about)
        return loss

    validation_loss = math.nan
    if world.is_first:
        on_record({"step": start, "note": _plan(config, model, total_steps, targets, world)})
    if start == 0:
        keep(0)
    asked = held.enter_context(_asked_to_stop(world))

    def rows_of(k: int) -> np.ndarray:
        return batch_rows(k, world.rank, world.size, config.batch.sequences, len(rows), config.data.order_seed)

    batches = held.enter_context(ahead(rows, range(start, total_steps), rows_of, world.device))
    last_resume = began = time.monotonic()
    for k in range(start, total_steps):
        step_began = time.monotonic()
        ids_BT = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate(k, total_steps, config.optimizer, config.schedule)
        global_targets = targets.of_step(k)
        optimizer.zero_grad(set_to_none=True)
        nats = step.accumulate(model, ids_BT, global_targets, config.batch.micro_sequences, dtype, targets.ignore)
        step.sum_over_ranks(model, nats, world)
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.grad_clip or math.inf)
        loss, grad_norm = float(nats) / global_targets, float(norm)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise DivergedError(
                f"{config.folder}: step {k + 1}: loss {loss}, gradient norm {grad_norm}: not finite; the weights "
                "before this step are kept. A lower optimizer.learning_rate or a longer schedule.warmup_steps may help"
            )
        optimizer.step()
        now = time.monotonic()
        at = k + 1
        log(
            at,
            {
                "train/loss": loss,
                "train/learning_rate": optimizer.param_groups[0]["lr"],
                "train/grad_norm": grad_norm,
                "train/tokens": targets.before(at),
                "train/tokens_per_second": global_targets / (now - step_began),
                "train/step_seconds": now - step_began,
                "train/seconds_left": (total_steps - at) * (now - began) / (at - start),
            },
        )
        if at in kept:
            if at == total_steps and world.is_first:  # before the last seal: a finished run can be gone on from
                checkpoint.save_resume(config.folder, at, model, optimizer, config.resume.keep)
            validation_loss = keep(at)
        elif config.eval.every and at % config.eval.every == 0:
            evaluate(at)
        if at < total_steps and (asked or now - last_resume >= config.resume.every_seconds):
            if world.is_first:
                checkpoint.save_resume(config.folder, at, model, optimizer, config.resume.keep)
            last_resume = now
        if asked:
            raise Interrupted(asked[0])
    if start == total_steps:
        validation_loss = keep(total_steps)  # killed between the last resume state and the last seal
    world.barrier()
    return Result(total_steps, validation_loss, held_out.floor)


def _plan(config: RunConfig, model: Model, total_steps: int, targets: Targets, world: World) -> str:
    threads = f", {config.threads} threads" if world.device == "cpu" and config.threads != 1 else ""
    return (
        f"{num_parameters(model)['total']:,} parameters, {total_steps:,} steps of "
        f"{'up to ' * (targets.counts is not None)}{targets.sequences * targets.per_row:,} tokens on "
        f"{world.device}{threads}" + (f", {world.size} workers" if world.size > 1 else "")
    )


@contextmanager
def _asked_to_stop(world: World) -> Iterator[list[int]]:
    """Signals that ask this run to end, as they come: it ends after the step under way, with a resume state.

    The second one ends it at once. Only where the run is this process: ranks that stopped at different steps would
    wait for each other, so theirs are ended by whoever started them and lose the steps since the last resume state.
    """
    asked: list[int] = []
    if world.size > 1 or threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: object) -> None:
        asked.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _forget(config: RunConfig, start: int, total_steps: int) -> None:
    """Drops the records that this start will write again: those after `start`, and at `start` what comes with a
    checkpoint when that is still to be sealed, which can only be the first or the last."""
    open_end = start in (0, total_steps)
    truncate(
        config.folder / METRICS,
        lambda record: (
            record["step"] <= start and not (open_end and record["step"] == start and "train/loss" not in record)
        ),
    )
    truncate(config.folder / SAMPLES, lambda record: record["step"] <= start - open_end)
