"""Documents dropped, swapped or inserted from a step on, with every other token where it was.

Experiments on memory and on influence want two runs that differ in one text alone. So nothing moves: a row keeps its
number, its step and its length. What is dropped is read as `<eos>` and counts for nothing; what is swapped takes the
other document's place, cut or filled up in the same way; what is inserted is read in place of a sequence's beginning.

A token that is read and not counted stands in a batch as ~id, a negative number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from suite.base.errors import ConfigError, TokensError
from suite.data.shards import Tokens
from suite.data.stream import Stream, stream_of
from suite.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Change:
    """Of one training split; documents by their number in corpus order, steps as checkpoints count them."""

    after_step: int = 0  # the weights of this step are the last that know nothing of it
    drop: tuple[int, ...] = ()
    swap: tuple[tuple[int, int], ...] = ()
    insert: str | None = None
    at_steps: tuple[int, ...] = ()  # the updates that read `insert`: update k leads to step k
    sequence: int = 0  # of the batch, which it is read in


class _Edit(NamedTuple):
    """From update `after_step` (counted from 0) on, the tokens `ids` stand in a row from column `first`."""

    after_step: int
    first: int
    ids: np.ndarray


class Changes:
    """`apply` writes the changes into a batch's ids."""

    def __init__(self, changes: tuple[Change, ...], tokens: Tokens, name: str, tokenizer: Tokenizer) -> None:
        """Raises ConfigError for documents that are not there and texts that no row holds, TokensError for rows that
        were not cut from a stream or have no index of documents."""
        if tokens.layout != "stream":
            raise TokensError(f"{tokens.folder}: data.changes are of rows cut from one stream, these are otherwise")
        self._edits: dict[int, list[_Edit]] = {}  # by row, in the order of the config
        self._inserted: dict[tuple[int, int], np.ndarray] = {}  # by update, from 0, and sequence
        stream = stream_of(tokens, name)
        edges = stream.edges(name) if any(change.drop or change.swap for change in changes) else np.zeros(1, np.int64)
        nothing = np.int64(~tokens.eos)
        for number, change in enumerate(changes):
            named = [*change.drop, *(document for pair in change.swap for document in pair)]
            for document in named:
                if not 0 <= document < len(edges) - 1:
                    raise ConfigError(
                        f"data.changes.{number}: document {document}, and {tokens.folder} holds whole documents 0 to "
                        f"{len(edges) - 2:,} of {name!r}"
                    )
            for document in change.drop:
                first, last = int(edges[document]), int(edges[document + 1])
                self._place(stream, change.after_step, first, np.full(last - first, nothing))
            for one, other in change.swap:
                for place, text in ((one, other), (other, one)):
                    first, size = int(edges[place]), int(edges[place + 1] - edges[place])
                    ids = _read(stream, int(edges[text]), int(edges[text + 1]))[:size]
                    filled = np.concatenate([ids, np.full(size - len(ids), nothing)])
                    self._place(stream, change.after_step, first, filled)
            if change.insert is not None:
                ids = np.array([tokens.bos, *tokenizer.encode(change.insert), tokens.eos], np.int64)
                if len(ids) > tokens.seq_len:
                    raise ConfigError(
                        f"data.changes.{number}.insert: {len(ids)} tokens with <bos> and <eos>, a row holds "
                        f"{tokens.seq_len}"
                    )
                for step in change.at_steps:
                    self._inserted[step - 1, change.sequence] = ids

    def _place(self, stream: Stream, after_step: int, first: int, ids: np.ndarray) -> None:
        """Puts `ids` at place `first` of the stream, into every row that holds a part of it."""
        added = stream.tokens.seq_len - stream.content
        for row in stream.rows_of(first, first + len(ids) - 1):
            start = first - row * stream.stride  # may lie before the row
            part = ids[max(0, -start) : stream.content - start]
            self._edits.setdefault(row, []).append(_Edit(after_step, added + max(0, start), part))

    def apply(self, update: int, first: int, numbers: np.ndarray, ids_BT: np.ndarray) -> None:
        """Changes, in place, the int64 ids of rows `numbers`, which are sequences first, first + 1 ... of an update's
        batch, counted from 0."""
        for i, row in enumerate(numbers.tolist()):
            for edit in self._edits.get(row, ()):
                if update >= edit.after_step:
                    ids_BT[i, edit.first : edit.first + len(edit.ids)] = edit.ids
            inserted = self._inserted.get((update, first + i))
            if inserted is not None:
                ids_BT[i, : len(inserted)] = inserted

    def touches(self, update: int, numbers: np.ndarray) -> list[int]:
        """Which sequences of an update's whole batch may differ from their rows."""
        return [
            i
            for i, row in enumerate(numbers.tolist())
            if any(update >= edit.after_step for edit in self._edits.get(row, ())) or (update, i) in self._inserted
        ]


def _read(stream: Stream, first: int, last: int) -> np.ndarray:
    """The tokens first to last - 1 of the stream, int64."""
    added = stream.tokens.seq_len - stream.content
    rows = [min(place // stream.stride, len(stream.rows) - 1) for place in (first, last - 1)]
    parts = []
    for row in range(rows[0], rows[1] + 1):
        start = row * stream.stride
        end = start + (stream.stride if row < len(stream.rows) - 1 else stream.content)
        a, b = max(first, start), min(last, end)
        if a < b:
            parts.append(stream.rows[row, added + a - start : added + b - start])
    return np.concatenate(parts).astype(np.int64)
