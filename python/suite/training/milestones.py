"""What a run does beside its steps: held-out loss, texts that the model writes, sealed checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from suite.base.tracker import Tracker
from suite.base.world import World
from suite.data.shards import Tokens
from suite.data.tokenizer import Tokenizer
from suite.models.build import Model, num_parameters
from suite.training import checkpoint, estimate, samples
from suite.training.config import RunConfig
from suite.training.run import SAMPLES
from suite.training.targets import Targets

OnRecord = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Milestones:
    """Of one run, on one rank: all ranks evaluate, the first one writes."""

    config: RunConfig
    world: World
    model: Model
    tokens: Tokens
    tokenizer: Tokenizer
    held_out: Mapping[str, estimate.HeldOut]  # by split, the validation split first
    targets: Targets
    tracker: Tracker | None
    on_record: OnRecord

    def evaluate(self, at: int) -> float:
        """Logs the held-out losses of the weights at step `at`, nats per token. Every rank calls it.

        Returns that of the validation split, the same on every rank.
        """
        losses = {name: estimate.loss(self.model, rows, self.world) for name, rows in self.held_out.items()}
        figures = {key: value for name, loss in losses.items()
                   for key, value in self.held_out[name].figures(name, loss).items()}  # fmt: skip
        if self.tracker:
            self.tracker.log(at, figures)
            self.on_record({"step": at, **figures})
        return losses["validation"]

    def keep(self, at: int, loss: float) -> None:
        """The checkpoint of step `at`, whose validation loss is known; the last one's seal ends the run."""
        if self.world.is_first:
            about = {
                "run": self.config.name,
                "tokens": self.targets.before(at),
                "validation_loss": loss,
                "seq_len": self.tokens.seq_len,
                "parameters": num_parameters(self.model),
                "tokenizer_sha256": self.tokenizer.sha256,
            }
            chat = self.tokens.split("train").chat
            checkpoint.save_checkpoint(
                self.config.folder,
                at,
                self.model,
                self.tokenizer,
                self.tokens.seq_len,
                {**about, "chat_template": chat.template} if chat else about,
            )

    def write_samples(self, at: int) -> None:
        """What the weights of step `at` write to the run's prompts."""
        if self.tracker is None or not self.config.samples.prompts:
            return
        records = samples.texts(self.config, self.model, self.tokens, self.tokenizer, at)
        with (self.config.folder / SAMPLES).open("a", encoding="utf-8", buffering=1) as file:
            file.writelines(json.dumps(record) + "\n" for record in records)
        self.tracker.log_texts(at, records)
        for record in records:
            self.on_record(record)
