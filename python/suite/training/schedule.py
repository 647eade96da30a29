"""Functions of the step: the learning rate, and which steps are checkpoints. No state, so resuming needs none."""

from __future__ import annotations

import math

from suite.base.errors import ConfigError
from suite.data.shards import Tokens
from suite.training.config import OptimizerConfig, RunConfig
from suite.training.moments import CheckpointsConfig, ScheduleConfig
from suite.training.targets import mean_per_row


def in_steps(config: RunConfig, tokens: Tokens) -> ScheduleConfig:
    """The run's schedule with its warm-up counted in steps of these tokens."""
    schedule = config.schedule
    if schedule.warmup_tokens is None:
        return schedule
    steps = math.ceil(schedule.warmup_tokens / (config.batch.sequences * mean_per_row(tokens, "train")))
    return schedule.model_copy(update={"warmup_steps": steps, "warmup_tokens": None})


def check(config: RunConfig, tokens: Tokens, total_steps: int) -> None:
    """Raises ConfigError for a schedule that is longer than the run."""
    schedule = in_steps(config, tokens)
    if schedule.warmup_steps > total_steps:
        key = "warmup_steps" if config.schedule.warmup_tokens is None else "warmup_tokens"
        raise ConfigError(f"schedule.{key}: {schedule.warmup_steps} of the run's {total_steps} steps")
    if schedule.type == "wsd" and schedule.warmup_steps + (schedule.decay_steps or 0) > total_steps:
        raise ConfigError(
            f"schedule.decay_steps: {schedule.decay_steps}, after a warm-up of {schedule.warmup_steps}, of the run's "
            f"{total_steps} steps"
        )


def learning_rate(step: int, total_steps: int, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> float:
    """The rate of update `step`, 0 to total_steps - 1, by a schedule that is `in_steps`.

    Warm-up ends at the peak in update `warmup_steps - 1`, and its first rate is not 0, so that step 1 differs from
    step 0. The last rate of a decay is not the minimum itself, which would be a step for nothing where it is 0.
    """
    assert schedule.warmup_tokens is None, "tokens are turned into steps first"
    peak, floor = optimizer.learning_rate, schedule.min_learning_rate
    if step < schedule.warmup_steps:
        return peak * (step + 1) / schedule.warmup_steps
    left = total_steps - step  # 1 in the last update
    span = max(1, total_steps - schedule.warmup_steps)
    match schedule.type:
        case "constant":
            return peak
        case "linear":
            return floor + (peak - floor) * left / span
        case "cosine":
            return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * (1 - left / span)))
        case "wsd":
            left_of_decay = left / (total_steps - decay_step(schedule, total_steps) + 1)
            return floor + (peak - floor) * _decayed(min(1.0, left_of_decay), schedule.decay_type)


def _decayed(left: float, shape: str) -> float:
    """How much of the peak remains when `left` of a decay, 1 to 0, is still to come."""
    match shape:
        case "sqrt":
            return 1 - math.sqrt(1 - left)
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * (1 - left)))
        case _:
            return left


def decay_step(schedule: ScheduleConfig, total_steps: int) -> int:
    """The step from which wsd's rate falls: its weights are the last of the stable phase. Others: the last step."""
    if schedule.type != "wsd":
        return total_steps
    return total_steps - (schedule.decay_steps or max(1, round(schedule.decay_fraction * total_steps)))


def checkpoint_steps(config: CheckpointsConfig, total_steps: int, schedule: ScheduleConfig) -> list[int]:
    """The steps whose weights are kept, ascending: 0 is the untrained model, total_steps the finished one."""
    decay_begins = decay_step(schedule, total_steps)
    decay = total_steps - decay_begins
    steps = {0, total_steps, decay_begins, *config.extra}
    steps |= {decay_begins + round(k * decay / config.in_decay) for k in range(config.in_decay)}
    match config.preset:
        case "pythia":
            steps |= {2**k for k in range(10)} | set(range(0, total_steps, 1000))
        case "delphi":
            steps |= {2**k for k in range(10)} | set(range(0, total_steps, 400))
        case "octaves":
            steps |= _octaves(config.per_octave, total_steps)
        case None:
            steps |= _octaves(config.per_octave, total_steps) if config.per_octave else set()
            steps |= {round(k * total_steps / config.linear) for k in range(1, config.linear + 1)}
    if config.every:
        steps |= set(range(0, total_steps, config.every))
    return sorted(step for step in steps if 0 <= step <= total_steps)


def _octaves(per_octave: int, total_steps: int) -> set[int]:
    octaves = math.log2(total_steps) if total_steps > 1 else 0
    return {round(2 ** (k / per_octave)) for k in range(int(octaves * per_octave) + 1)}
