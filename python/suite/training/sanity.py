"""A run's first steps, end to end, under a name of its own: what is wrong with a config is known in seconds.

The real model, tokens, batch and workers; two updates, an evaluation on a few rows, a text, a checkpoint and a resume
state, which are read back. Then all of it is removed.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from typing import Any

from suite.base.store import open_sealed
from suite.base.tracker import METRICS, read_records
from suite.training import run
from suite.training.config import RunConfig
from suite.training.early import LOSS

STEPS = 2
ROWS = 4
NEW_TOKENS = 8


def shortened(config: RunConfig) -> RunConfig:
    """The settled config with so little to do that it is done at once; what a step computes is the same."""
    last = run.first_step(config) + STEPS
    ours = {
        "name": f"{config.name}.sanity-{secrets.token_hex(4)}",
        "budget": config.budget.model_copy(update={"steps": last, "epochs": None, "tokens": None}),
        "schedule": config.schedule.model_copy(
            update={
                "warmup_steps": min(config.schedule.warmup_steps, last),
                "warmup_tokens": None,
                "decay_steps": None,
            }
        ),
        "checkpoints": config.checkpoints.model_copy(
            update={"per_octave": 0, "linear": 0, "in_decay": 0, "every": None, "extra": (), "preset": None}
        ),
        "eval": config.eval.model_copy(update={"rows": ROWS, "every": None}),
        "early_stopping": config.early_stopping.model_copy(update={"patience": None}),
        "samples": config.samples.model_copy(
            update={
                "prompts": config.samples.prompts[:1] or ("",),
                "per_prompt": 1,
                "every": None,
                "max_new_tokens": NEW_TOKENS,
            }
        ),
        "resume": config.resume.model_copy(update={"every_seconds": 0.0, "keep": 1, "steps": ()}),
        "tracker": config.tracker.model_copy(update={"type": "none"}),
    }
    return config.model_copy(update=ours)


def check(config: RunConfig, launch: Callable[[RunConfig], Any]) -> list[str]:
    """Trains a `shortened` config with `launch` and reads back what it left -> what worked. Removes the run's folder.

    Raises what the run itself would raise.
    """
    try:
        launch(config)
        last = run.finished_step(config)
        assert last is not None, "a run that returned is finished"
        records = read_records(config.folder / METRICS)
        losses = [record["train/loss"] for record in records if "train/loss" in record]
        evaluated = [record[LOSS] for record in records if LOSS in record]
        texts = read_records(config.folder / run.SAMPLES)
        size = sum(path.stat().st_size for path in run.folder_of(config.folder, last).iterdir())
        for kind, folder in (("checkpoint", f"step-{last:08d}"), ("resume", f"resume-{last:08d}")):
            open_sealed(config.folder / folder, kind)
        return [
            f"{len(losses)} steps, loss {losses[0]:.4f} and {losses[-1]:.4f}",
            f"evaluated on {ROWS} rows, validation loss {evaluated[-1]:.4f}",
            f"written: {texts[-1]['text']!r}",
            f"checkpoint and resume state sealed and read back, {size / 1e6:.2f} MB a checkpoint",
        ]
    finally:
        shutil.rmtree(config.folder, ignore_errors=True)
