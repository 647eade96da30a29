"""What a run leaves behind: checkpoints for readers, resume states for itself. Save and load side by side.

A checkpoint is a transformers folder with weights alone. A resume state holds all that the next step depends on:
weights, both moments, the random state and the step. Neither holds a pickle, and neither counts until it is sealed.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from suite.base.errors import SealError
from suite.base.store import is_sealed, open_sealed, seal
from suite.data.chat import Chat
from suite.data.tokenizer import Tokenizer
from suite.models import hf
from suite.models.build import Model
from suite.training import optim
from suite.training.run import folder_of, resume_steps


def _resume_folder(run: Path, step: int) -> Path:
    return run / f"resume-{step:08d}"


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)  # what a killed run left half-written
    folder.mkdir(parents=True)
    return folder


def save_checkpoint(
    run: Path, step: int, model: Model, tokenizer: Tokenizer, seq_len: int, about: dict[str, Any]
) -> None:
    """Writes and seals step-<step>; one that is sealed already is the same bits and stays."""
    folder = folder_of(run, step)
    if is_sealed(folder):
        return
    hf.write_folder(model, _fresh(folder), seq_len, tokenizer.special)
    tokenizer.copy_to(folder)
    if template := about.get("chat_template"):
        Chat(template, tokenizer).write(folder)
    seal(folder, "checkpoint", {"step": step, **about})


def save_resume(
    run: Path, step: int, model: Model, optimizer: torch.optim.AdamW, keep: int, stays: Collection[int] = ()
) -> None:
    """Writes and seals resume-<step>, then removes all but the newest `keep` and those of steps in `stays`."""
    folder = _resume_folder(run, step)
    if is_sealed(folder):
        return
    _fresh(folder)
    hf.write_weights(model, folder / hf.WEIGHTS)
    save_file(optim.state_by_name(model, optimizer), folder / "optimizer.safetensors")
    save_file({"torch": torch.get_rng_state()}, folder / "random.safetensors")
    seal(folder, "resume", {"step": step})
    passing = [old for old in sorted(run.glob("resume-????????")) if old.name not in {f"resume-{s:08d}" for s in stays}]
    for old in passing[:-keep]:
        if old != folder:
            shutil.rmtree(old)


def load_resume(run: Path, model: Model, optimizer: torch.optim.AdamW) -> int:
    """Restores the newest sealed resume state. Returns its step, or 0 when there is none and nothing changed.

    Raises SealError when the newest is damaged: going on from less would silently repeat work.
    """
    steps = resume_steps(run)
    if not steps:
        return 0
    load_state(run, steps[-1], model, optimizer)
    return steps[-1]


def load_state(run: Path, step: int, model: Model, optimizer: torch.optim.AdamW) -> None:
    """Restores a sealed resume state. Raises SealError when it is damaged or of another model."""
    folder = _resume_folder(run, step)
    open_sealed(folder, "resume")
    hf.read_weights(model, folder / hf.WEIGHTS)
    try:
        optim.load_state(model, optimizer, load_file(folder / "optimizer.safetensors"))
    except KeyError as error:
        raise SealError(
            f"{folder}: no optimizer state for {error}; remove the folder to go on from an older one"
        ) from None
    torch.set_rng_state(load_file(folder / "random.safetensors")["torch"])
