"""Early stopping: a function of the validation losses in the order of their steps, and of nothing else.

A run that goes on hears the losses that its metrics.jsonl holds again, so it stops where the run left alone would have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from suite.training.moments import EarlyStoppingConfig

LOSS = "validation/loss"


class Patience:
    """Counts the evaluations since the loss last fell by more than `min_delta` below the best."""

    def __init__(self, config: EarlyStoppingConfig) -> None:
        self.config = config
        self.best = math.inf
        self.waited = 0

    def ends_with(self, loss: float) -> bool:
        """Hears the next loss, in nats per token, and says whether the run ends with it. What is no number waits."""
        if loss < self.best - self.config.min_delta:
            self.best, self.waited = loss, 0
        else:
            self.waited += 1
        return self.config.patience is not None and self.waited >= self.config.patience


def replayed(config: EarlyStoppingConfig, records: Iterable[Mapping[str, Any]]) -> tuple[Patience, int | None]:
    """Where the records of a run leave its patience, and the step with which it ended; None when it goes on."""
    patience = Patience(config)
    losses = {record["step"]: record[LOSS] for record in records if LOSS in record}
    for step in sorted(losses):
        if patience.ends_with(losses[step]):
            return patience, step
    return patience, None
