"""Seconds and bytes of a run's parts, measured in about three seconds on the machine that asks.

The parts are the run's own: its model, its update on rows of its tokens (random ones where they are still to be made),
its evaluation, its sampling, its way of writing. What would take long is measured on a part and multiplied: a step of
many micro-batches on two of them, an evaluation on some of its batches, large states on 64 MB. One micro-batch is run
twice at least, so a large model on a slow machine takes longer than three seconds. Nothing is left behind.

A worker of several is measured alone: what they send each other is not in it. Call it in a process of its own, beside
as many others as will run at the same time: cores share caches and memory.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from suite.base.special import SpecialIds
from suite.base.store import seal
from suite.base.world import World, check_device
from suite.data.shards import Tokens
from suite.data.tokenizer import Tokenizer
from suite.models import hf
from suite.models.build import Model, build, initialize
from suite.models.sampling import sample
from suite.training import estimate, optim, prepare
from suite.training.config import RunConfig
from suite.training.loop import repeatable
from suite.training.meter import peak_bytes
from suite.training.moments import EvalConfig
from suite.training.plan import Costs
from suite.training.targets import NOTHING
from suite.training.update import Update

STEP_SECONDS, EVALUATION_SECONDS = 1.8, 0.7
WRITTEN_BYTES = 64 << 20


Clock = Callable[[], float]
Timer = Callable[[Callable[[], object]], float]  # the seconds that a piece of work takes


def measure(config: RunConfig, clock: Clock = time.perf_counter) -> Costs:
    """Of one worker of a settled config. Raises ConfigError when the device is not there.

    clock: time.process_time where the work of others should not count (bench/plan.py).
    """
    check_device(config.device)
    repeatable(config)
    world = World(device=config.device)
    known = None if prepare.missing_splits(config) else prepare.opened(config)
    vocab_size = config.model.vocab_size or (known[0].vocab_size if known else config.data.vocab_size)
    model = build(config.model, vocab_size)
    initialize(model, config.seed)
    if config.batch.gradient_checkpointing:
        model.use_gradient_checkpointing()
    model.to(config.device).train()
    optimizer = optim.adamw(model, config.optimizer)
    held_out = _held_out(config, known, vocab_size)
    share = -(-config.batch.sequences // config.num_workers)
    ids_BT = _rows(config, known, vocab_size, share).to(config.device)
    ignore = known[0].pad if known and known[0].layout == "documents" and known[0].pad is not None else NOTHING
    isolate = known[1].special if known and config.data.isolate else None
    start = _age() if clock is time.perf_counter else clock()

    def seconds(work: Callable[[], object]) -> float:
        _wait_for(config.device)
        began = clock()
        work()
        _wait_for(config.device)
        return clock() - began

    step = _step_seconds(seconds, config, model, optimizer, ids_BT, ignore, isolate)
    evaluation = _evaluation_seconds(seconds, model, held_out, world)
    with tempfile.TemporaryDirectory(prefix="suite-plan-") as folder:
        weights = hf.weights(model)
        checkpoint = _writing_seconds(seconds, weights, Path(folder))
        resume = _writing_seconds(seconds, {**weights, **optim.state_by_name(model, optimizer)}, Path(folder))
    samples = len(config.samples.prompts) * _sample_seconds(seconds, config, model, known)
    return Costs(start, step, evaluation, samples, checkpoint, resume, peak_bytes(config.device))


def _age() -> float:
    """Seconds since this process began; where the system does not say, since it began to compute."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.process_time()


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _rows(config: RunConfig, known: tuple[Tokens, Tokenizer] | None, vocab_size: int, count: int) -> Tensor:
    if known:
        rows = known[0].rows("train")
        return torch.from_numpy(rows[np.arange(count) % len(rows)].astype(np.int64))
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (count, config.data.seq_len), generator=generator)


def _held_out(config: RunConfig, known: tuple[Tokens, Tokenizer] | None, vocab_size: int) -> estimate.HeldOut:
    if known:
        most = None if config.eval.rows == "all" else config.eval.rows
        return estimate.HeldOut.of(known[0], config.eval.splits[0], most, known[1])
    # Of tokens that are still to be made nobody knows how many rows all of them are: as many as by default.
    count = EvalConfig().rows if config.eval.rows == "all" else config.eval.rows
    assert isinstance(count, int)
    rows = _rows(config, None, vocab_size, count).numpy()
    return estimate.HeldOut(list(rows), rows[:, 1:].size, None)


def _step_seconds(
    seconds: Timer,
    config: RunConfig,
    model: Model,
    optimizer: torch.optim.AdamW,
    ids_BT: Tensor,
    ignore: int,
    isolate: SpecialIds | None,
) -> float:
    """The mean: what disturbs a step now will disturb the run's as well."""
    micro = config.batch.micro_sequences
    assert micro is not None, "the config must be settled"

    def of(sequences: int) -> Callable[[], float]:
        """The seconds of an update with so many sequences."""
        batch = config.batch.model_copy(update={"sequences": sequences})
        part = config.model_copy(update={"batch": batch})
        update = Update(model, optimizer, part, World(device=config.device), ignore, isolate)
        rows_BT = ids_BT[:sequences]
        # A rate of almost nothing: the weights stay what they are, and the work is the same.
        return lambda: seconds(lambda: update(rows_BT, rows_BT[:, 1:].numel(), 1e-12).tolist())

    one = of(min(micro, len(ids_BT)))
    one()  # the first allocates memory, and chooses kernels
    of_one, count = one(), -(-len(ids_BT) // micro)
    if count * of_one > STEP_SECONDS:
        if count == 1 or of_one > STEP_SECONDS:
            return count * of_one  # AdamW is counted with every micro-batch, a few hundredths of it
        return of_one + (count - 1) * max(0.0, of(2 * micro)() - of_one)
    whole = of(len(ids_BT))
    whole()
    times: list[float] = []
    while sum(times) < STEP_SECONDS:
        times.append(whole())
    return sum(times) / len(times)


def _evaluation_seconds(seconds: Timer, model: Model, held_out: estimate.HeldOut, world: World) -> float:
    size = estimate.ROWS_PER_BATCH
    batches = [held_out.rows[at : at + size] for at in range(0, len(held_out.rows), size)]
    times: list[float] = []
    for rows in [batches[0], *random.Random(0).sample(batches, len(batches))]:
        part = estimate.HeldOut(rows, sum(len(row) - 1 for row in rows), None)
        times.append(seconds(lambda part=part: estimate.loss(model, part, world)))
        if sum(times) > EVALUATION_SECONDS:
            break
    timed = times[1:] or times  # the first one warms up
    return len(batches) * sum(timed) / len(timed)


def _writing_seconds(seconds: Timer, tensors: dict[str, Tensor], folder: Path) -> float:
    """Of a sealed folder with these tensors."""
    total = sum(tensor.nbytes for tensor in tensors.values())
    part: dict[str, Tensor] = {}
    left = WRITTEN_BYTES
    for name, tensor in tensors.items():
        floats = tensor.flatten()[: max(0, left) // tensor.element_size()]
        part[name] = floats.clone()
        left -= floats.nbytes

    def write() -> None:
        save_file(part, folder / hf.WEIGHTS)
        seal(folder, "checkpoint", {})

    return seconds(write) * total / (WRITTEN_BYTES - left)


def _sample_seconds(seconds: Timer, config: RunConfig, model: Model, known: tuple[Tokens, Tokenizer] | None) -> float:
    """Of a text as long as it may be. A token's time depends on those before it: Simpson's rule."""
    settings, context = config.samples, config.data.seq_len - 1
    if not settings.prompts:
        return 0.0
    prompt = known[1].encode(settings.prompts[0]) if known else settings.prompts[0].split()
    first, last = (min(context, 1 + len(prompt) + more) for more in (0, settings.max_new_tokens - 1))

    def token_seconds(length: int) -> float:
        tokens = sample(
            model,
            [0] * length,
            max_new_tokens=4,
            context=context,
            eos=-1,  # no id: it is never drawn
            temperature=settings.temperature,
            top_k=settings.top_k,
        )
        next(tokens)
        return seconds(lambda: list(tokens)) / 3

    model.eval()
    times = [token_seconds(length) for length in (first, (first + last) // 2, last)]
    model.train()
    return settings.max_new_tokens * (times[0] + 4 * times[1] + times[2]) / 6
