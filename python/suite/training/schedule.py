"""Functions of the step: the learning rate, and which steps are checkpoints. No state, so resuming needs none."""

from __future__ import annotations

import math

from suite.training.config import CheckpointsConfig, OptimizerConfig, ScheduleConfig


def learning_rate(step: int, total_steps: int, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> float:
    """The rate of update `step`, 0 to total_steps - 1. Warm-up ends at the peak in update `warmup_steps - 1`, and
    its first rate is not 0, so that step 1 differs from step 0."""
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
            decay = _decay_steps(schedule, total_steps)
            return floor + (peak - floor) * min(1.0, left / (decay + 1))


def _decay_steps(schedule: ScheduleConfig, total_steps: int) -> int:
    return max(1, round(schedule.decay_fraction * total_steps))


def decay_step(schedule: ScheduleConfig, total_steps: int) -> int:
    """The step from which wsd's rate falls: its weights are the last of the stable phase. Others: the last step."""
    return total_steps - _decay_steps(schedule, total_steps) if schedule.type == "wsd" else total_steps


def checkpoint_steps(config: CheckpointsConfig, total_steps: int) -> list[int]:
    """The steps whose weights are kept, ascending: 0 is the untrained model, total_steps the finished one."""
    steps = {0, total_steps, *config.extra}
    match config.preset:
        case "pythia":
            steps |= {2**k for k in range(10)} | set(range(0, total_steps, 1000))
        case "delphi":
            steps |= {2**k for k in range(10)} | set(range(0, total_steps, 400))
        case None:
            if config.per_octave:
                octaves = math.log2(total_steps) if total_steps > 1 else 0
                steps |= {round(2 ** (k / config.per_octave)) for k in range(int(octaves * config.per_octave) + 1)}
            steps |= {round(k * total_steps / config.linear) for k in range(1, config.linear + 1)}
    if config.every:
        steps |= set(range(0, total_steps, config.every))
    return sorted(step for step in steps if step <= total_steps)
