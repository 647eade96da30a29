"""What each step of a run reads, from its config and tokens alone: the trainer's own batches, for whoever asks."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from suite.base.errors import ConfigError
from suite.data.batches import batch_rows, rank_slice
from suite.data.changes import Change, Changes
from suite.data.shards import Tokens
from suite.data.tokenizer import Tokenizer
from suite.training.config import RunConfig
from suite.training.targets import Targets


class Reading:
    """Updates are counted from 0: update k leads to the weights of step k + 1."""

    def __init__(self, config: RunConfig, tokens: Tokens, tokenizer: Tokenizer) -> None:
        """Raises ConfigError for changes that cannot be made to these tokens."""
        self.sequences, self.seed = config.batch.sequences, config.data.order_seed
        self.rows = tokens.rows("train")
        self._tokens = tokens
        listed = tuple(Change(**change.model_dump()) for change in config.data.changes)
        self.answers = tokens.answers("train") if tokens.split("train").chat else None
        if listed and self.answers:
            raise ConfigError("data.changes: conversations cannot be changed; change the records and tokenize them")
        self.changes = Changes(listed, tokens, "train", tokenizer) if listed else None

    def numbers(self, update: int, rank: int = 0, size: int = 1) -> np.ndarray:
        """Row numbers of a rank's part of an update's batch, uint64."""
        return batch_rows(update, rank, size, self.sequences, len(self.rows), self.seed)

    @property
    def is_changed(self) -> bool:
        """Whether `change` has anything to write."""
        return self.changes is not None or self.answers is not None

    def change(self, update: int, rank: int, size: int, ids_BT: np.ndarray) -> None:
        """Writes the config's changes of the data into a rank's part of a batch; of conversations, all that is no
        answer as ~id: read and not counted."""
        if self.answers:
            counted_BT = self.answers.counted(self.numbers(update, rank, size), ids_BT.shape[1])
            counted_BT[:, 0] = True  # <bos> is nobody's target
            np.invert(ids_BT, out=ids_BT, where=~counted_BT)
        if self.changes:
            first, _ = rank_slice(self.sequences, rank, size)
            self.changes.apply(update, first, self.numbers(update, rank, size), ids_BT)

    def ids(self, update: int) -> np.ndarray:
        """The whole batch of an update as the model reads it, int64 [B, T]; ~id is read and not counted."""
        ids_BT = self.rows[self.numbers(update).astype(np.int64)].astype(np.int64)
        self.change(update, 0, 1, ids_BT)
        return ids_BT

    @cached_property
    def targets(self) -> Targets:
        return Targets.of(self._tokens, "train", self.sequences, self.seed, self._uncounted if self.changes else None)

    def _uncounted(self, update: int) -> int:
        """How many targets the changes take from an update."""
        assert self.changes is not None
        numbers = self.numbers(update)
        touched = self.changes.touches(update, numbers)
        uncounted = 0
        for i in touched:
            ids_BT = self.rows[int(numbers[i])][None].astype(np.int64)
            self.changes.apply(update, i, numbers[i : i + 1], ids_BT)
            uncounted += int((ids_BT[:, 1:] < 0).sum())
        return uncounted
