"""What a run does beside its steps: held-out loss, texts that the model writes, sealed checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from suite.base.world import World
from suite.data.shards import Tokens
from suite.data.tokenizer import Tokenizer
from suite.models.build import Model, num_parameters
from suite.models.sampling import sample
from suite.training import checkpoint, estimate
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
    held_out: estimate.HeldOut
    targets: Targets
    log: Callable[[int, dict[str, Any]], None]
    on_record: OnRecord

    def evaluate(self, at: int) -> float:
        """Logs the held-out loss of the weights at step `at`, nats per token. Every rank calls it."""
        loss = estimate.loss(self.model, self.held_out, self.world)
        floor = {} if self.held_out.floor is None else {"validation/floor": self.held_out.floor}
        self.log(at, {"validation/loss": loss, **floor})
        return loss

    def keep(self, at: int) -> float:
        """The checkpoint of step `at`: loss and samples first; its seal last, because the last seal ends the run."""
        loss = self.evaluate(at)
        if self.world.is_first:
            self._write_samples(at)
            about = {
                "run": self.config.name,
                "tokens": self.targets.before(at),
                "validation_loss": loss,
                "seq_len": self.tokens.seq_len,
                "parameters": num_parameters(self.model),
                "tokenizer_sha256": self.tokenizer.sha256,
            }
            checkpoint.save_checkpoint(self.config.folder, at, self.model, self.tokenizer, self.tokens.seq_len, about)
        return loss

    def _write_samples(self, at: int) -> None:
        settings, special = self.config.samples, self.tokenizer.special
        self.model.eval()
        with (self.config.folder / SAMPLES).open("a", encoding="utf-8", buffering=1) as file:
            for prompt in settings.prompts:
                ids = sample(
                    self.model,
                    [special.bos, *self.tokenizer.encode(prompt)],
                    max_new_tokens=settings.max_new_tokens,
                    context=self.tokens.seq_len - 1,  # what training feeds: a row without its last token
                    eos=special.eos,
                    temperature=settings.temperature,
                    top_k=settings.top_k,
                    seed=self.config.seed,
                )
                record = {"step": at, "prompt": prompt, "text": self.tokenizer.decode(ids)}
                file.write(json.dumps(record) + "\n")
                self.on_record(record)
        self.model.train()
