"""How many tokens a step predicts: the same for all where rows are full, else the rows' own numbers.

A step's loss is summed nats over the tokens of the whole batch, so every rank must know that number before its first
backward pass. It follows from the step alone, by the index of documents: nothing is sent, and nothing is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from suite.data.batches import batch_rows
from suite.data.shards import Tokens

NOTHING = -100  # no id: every target counts


@dataclass
class Targets:
    """`ignore` is the id of padding, NOTHING where rows are full. counts: int64 [rows], None where all are equal.
    `uncounted` says how many of a step's targets do not count beside that."""

    sequences: int
    seed: int
    num_rows: int
    per_row: int
    counts: np.ndarray | None
    ignore: int
    uncounted: Callable[[int], int] | None = None
    _before: tuple[int, int] = field(default=(0, 0))  # a step, and the tokens of those before it

    @classmethod
    def of(
        cls, tokens: Tokens, name: str, sequences: int, seed: int, uncounted: Callable[[int], int] | None = None
    ) -> Targets:
        content, num_rows = tokens.seq_len - 1, tokens.split(name).rows
        if tokens.layout != "documents":
            return cls(sequences, seed, num_rows, content, None, NOTHING, uncounted)
        assert tokens.pad is not None, "rows of documents are filled up with a pad token"
        if tokens.split(name).chat:
            counts = tokens.answers(name).counts()
        else:
            counts = np.minimum(tokens.lengths(name), content).astype(np.int64)
        return cls(sequences, seed, num_rows, content, counts, tokens.pad, uncounted)

    def of_step(self, step: int) -> int:
        """The tokens that step `step`, from 0, predicts over all ranks."""
        less = self.uncounted(step) if self.uncounted else 0
        if self.counts is None:
            return self.sequences * self.per_row - less
        return -less + int(self.counts[batch_rows(step, 0, 1, self.sequences, self.num_rows, self.seed)].sum())

    def before(self, step: int) -> int:
        """The tokens that the steps before `step` predict together. Cheap when asked in order."""
        if self.counts is None and self.uncounted is None:
            return step * self.sequences * self.per_row
        known, tokens = self._before if self._before[0] <= step else (0, 0)
        self._before = step, tokens + sum(self.of_step(k) for k in range(known, step))
        return self._before[1]


def mean_per_row(tokens: Tokens, name: str) -> float:
    """Tokens that a row predicts, on average over the split."""
    split = tokens.split(name)
    if split.chat and split.rows:
        return split.chat.counted / split.rows
    if tokens.layout == "documents" and split.tokens is not None and split.rows:
        return split.tokens / split.rows
    return tokens.seq_len - 1
