"""Forks: a run that begins with the weights, the optimizer's state and the position of another one at some step.

What a fork changes (its budget, the schedule from there on, the data) is said when it begins and kept in its
environment.json; everything else is the other run's, bit for bit. A fork that changes nothing is the other run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch

from suite.base.errors import ConfigError, SealError
from suite.models.build import Model
from suite.training import checkpoint, run
from suite.training.config import RunConfig


class Origin(NamedTuple):
    folder: Path
    step: int


def origin_of(config: RunConfig) -> Origin | None:
    """Where a fork begins; None for a run of its own."""
    if config.from_ is None:
        return None
    folder, _, step = config.from_.rpartition("@")
    return Origin(config.path(folder), int(step))


def begin(config: RunConfig, tokenizer_sha256: str, model: Model, optimizer: torch.optim.AdamW) -> dict[str, Any]:
    """Fills model and optimizer with the origin's state. Returns what the fork's environment.json keeps of it.

    Raises ConfigError when there is no such state or the model is another one.
    """
    origin = origin_of(config)
    assert origin is not None
    folder, step = origin
    try:
        parent = run.stored_run(folder)
        states = run.resume_steps(folder)
        if step not in states:
            there = ", ".join(str(one) for one in states) or "none"
            raise ConfigError(
                f"from: {folder} has no resume state of step {step} (it has {there}): a run keeps those of "
                "resume.steps, the one before wsd's decay and the last"
            )
        differs = differences(parent, config)
        if models := [line for line in differs if line.startswith("model.")]:
            raise ConfigError(f"from: {folder} is another model: {'; '.join(models)}")
        about = run.manifest_of(folder, run.steps_in(folder)[-1]).get("tokenizer_sha256")
        if about not in (None, tokenizer_sha256):
            raise ConfigError(f"from: {folder} was trained with another tokenizer")
        checkpoint.load_state(folder, step, model, optimizer)
    except SealError as error:
        raise ConfigError(f"from: {error}") from None
    return {"run": str(config.from_), "differs": differs}


def differences(parent: RunConfig, config: RunConfig) -> list[str]:
    """ "key: theirs -> ours" for every key of the two runs' identities that is not the same."""
    theirs, ours = run.identity(parent), run.identity(config)
    return [
        f"{key}: {theirs.get(key)!r} -> {ours.get(key)!r}"
        for key in dict.fromkeys([*theirs, *ours])
        if key not in ("name", "from") and theirs.get(key) != ours.get(key)
    ]
