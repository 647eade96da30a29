"""A split read as what was packed into it: its stream of tokens, its documents, and the rows that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from suite import _core
from suite.base.errors import TokensError
from suite.data.shards import ELSEWHERE, Tokens
from suite.data.tokenizer import Tokenizer

SLICE_ROWS = 4096


class Place(NamedTuple):
    """Where a text stands: its document (None where there is no index), and the rows that hold a part of it."""

    document: int | None
    rows: range


@dataclass(frozen=True)
class Stream:
    """The tokens of rows [num_rows, seq_len] without what rows add, which is <bos> in those that we make. Each row's
    are alone, but for rows that were cut from one stream."""

    rows: np.ndarray
    tokens: Tokens

    @property
    def content(self) -> int:
        return self.tokens.seq_len - self._added

    @property
    def _added(self) -> int:
        return int(self.tokens.layout != ELSEWHERE)

    @property
    def stride(self) -> int:
        return self.content - self.tokens.overlap

    def slices(self) -> Iterator[np.ndarray]:
        """The stream from its beginning, some thousand rows at a time; for documents the rows' padding as well."""
        last = len(self.rows) - 1
        for first in range(0, len(self.rows), SLICE_ROWS):
            part = self.rows[first : first + SLICE_ROWS]
            ids = np.ascontiguousarray(part[:, self._added : self._added + self.stride]).reshape(-1)
            if first + SLICE_ROWS > last and self.tokens.overlap:
                ids = np.concatenate([ids, part[-1, self._added + self.stride :]])
            yield ids

    def rows_of(self, first: int, last: int) -> range:
        """The rows that hold a part of the tokens first..last of the stream."""
        lowest = max(0, -(-(first - self.content + 1) // self.stride))
        return range(lowest, min(last // self.stride + 1, len(self.rows)))

    def edges(self, name: str) -> np.ndarray:
        """Where each whole document begins in the stream, and where the last one ends: int64 [documents + 1]."""
        lengths = self.tokens.lengths(name).astype(np.int64)
        if self.tokens.layout == "documents":
            return np.arange(len(lengths) + 1) * self.content
        edges = np.concatenate([[0], np.cumsum(lengths)])
        size = (len(self.rows) - 1) * self.stride + self.content if len(self.rows) else 0
        return edges[edges <= size]


def stream_of(tokens: Tokens, name: str) -> Stream:
    return Stream(tokens.rows(name), tokens)


def places_of(text: str, tokens: Tokens, name: str, tokenizer: Tokenizer) -> Iterator[Place]:
    """Where the documents of a split hold a text, in corpus order. Raises TokensError where ids do not spell texts.

    Exact, wherever the tokenizer cuts: the bytes that the tokens stand for are searched, not the tokens that the text
    would have by itself. A place may lie in several rows; what the tail of the stream dropped is in none.
    """
    spelled, wanted = tokenizer.bytes_of_ids(), tokenizer.spelled(text)
    if spelled is None:
        raise TokensError(f"{tokenizer.folder}: the ids of this tokenizer do not spell texts, so none can be found")
    if not wanted:
        raise TokensError("the text to look for is empty")
    stream = stream_of(tokens, name)
    index = tokens.split(name).index
    edges = stream.edges(name) if index else None
    one_each = tokens.layout != "stream"
    breaks = [tokens.eos] if tokens.pad is None else [tokens.eos, tokens.pad]
    finder = _core.Finder(wanted, spelled, breaks, stream.rows.dtype == np.uint32)
    for ids in stream.slices():
        for part in ids.reshape(-1, stream.content) if one_each else (ids,):
            for first, last in finder.push(part):
                document = int(np.searchsorted(edges, first, "right")) - 1 if edges is not None else None
                yield Place(document, stream.rows_of(first, last))
            if one_each:
                finder.end()


def digests_of(tokens: Tokens, name: str) -> Iterator[np.ndarray]:
    """A hash of each whole document's tokens as its rows hold them: void16 [documents], some at a time."""
    stream, first, left = stream_of(tokens, name), 0, np.empty(0, tokens.dtype)
    edges = stream.edges(name)
    if tokens.layout == "documents":
        stops = edges[:-1] + np.minimum(tokens.lengths(name), stream.content)
    else:
        stops = edges[1:]
    start = 0  # of `left` in the stream
    for ids in stream.slices():
        left = np.concatenate([left, ids])
        last = int(np.searchsorted(edges, start + len(left), "right")) - 1
        if last > first:
            begins, ends = (edges[first:last] - start), (stops[first:last] - start)
            size = left.itemsize
            hashes = _core.text_hashes(left.view(np.uint8), begins * size, ends * size)
            yield np.frombuffer(hashes, np.dtype((np.void, 16)))
            left, start, first = left[edges[last] - start :], int(edges[last]), last


def whole(tokens: Tokens, name: str) -> range:
    """The documents of a split whose rows hold all that is kept of them."""
    return range(len(stream_of(tokens, name).edges(name)) - 1)


def overlap(tokens: Tokens, ours: str, theirs: str) -> tuple[list[int], int]:
    """Which documents of `ours` are, token for token, in `theirs` too: their numbers, and how many there are in all."""
    mine: dict[bytes, list[int]] = {}
    number = 0
    for some in digests_of(tokens, ours):
        for digest in some.tolist():
            mine.setdefault(digest, []).append(number)
            number += 1
    found = set()
    for some in digests_of(tokens, theirs):
        found |= mine.keys() & set(some.tolist())
    return sorted(number for digest in found for number in mine[digest]), number
