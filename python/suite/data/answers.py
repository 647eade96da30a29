"""Where the answers stand in rows of conversations: what a loss counts of each row.

A parquet file beside a split's shards, a row for each of theirs: `answers`, the places [start, stop, start, stop ...]
of the row's answers in it, counted from <bos>, which is place 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from suite.base.errors import TokensError
from suite.base.store import sha256_of, sync

COLUMN = "answers"


class Answers:
    """Of all rows of a split: offsets int64 [rows + 1] into edges int64 [2 * answers], starts and stops in turn."""

    def __init__(self, offsets: np.ndarray, edges: np.ndarray) -> None:
        self.offsets, self.edges = offsets, edges

    def counts(self) -> np.ndarray:
        """How many tokens of each row are counted: int64 [rows]."""
        lengths = np.concatenate([[0], np.cumsum(self.edges[1::2] - self.edges[::2])])
        return np.diff(lengths[self.offsets // 2])

    def counted(self, numbers: np.ndarray, seq_len: int) -> np.ndarray:
        """Which tokens of these rows are counted: bool [rows, seq_len]."""
        numbers = numbers.astype(np.int64)
        first, last = self.offsets[numbers], self.offsets[numbers + 1]
        rows = np.repeat(np.arange(len(numbers)), last - first)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
        places = np.repeat(first, last - first) + within
        steps_BT = np.zeros((len(numbers), seq_len + 1), np.int32)
        np.add.at(steps_BT, (rows, self.edges[places]), np.where(places % 2 == 0, 1, -1))
        return steps_BT.cumsum(axis=1)[:, :seq_len] > 0


def write(path: Path, answers: Sequence[Sequence[tuple[int, int]]]) -> tuple[str, int, int, str]:
    """Writes the file -> (name, rows, bytes, sha256)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    flat = [[place for answer in row for place in answer] for row in answers]
    table = pa.table({COLUMN: pa.array(flat, pa.list_(pa.uint32()))})
    pq.write_table(table, path, compression="zstd", write_statistics=False, store_schema=False)
    sync(path)
    return path.name, len(flat), path.stat().st_size, sha256_of(path)


def read(path: Path, sha256: str, rows: int, seq_len: int) -> Answers:
    """Raises TokensError when the file is missing, damaged, or not of such rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise TokensError(f"{path}: missing, though the manifest lists it; tokenize again")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise TokensError(f"{path}: its SHA-256 is not the manifest's: damaged or replaced; tokenize again")
    lists: Any = pq.read_table(pa.py_buffer(data))[COLUMN].combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    edges = lists.values.to_numpy().astype(np.int64)
    starts, stops = edges[::2], edges[1::2]
    inside = (offsets % 2 == 0).all() and (starts >= 1).all() and (starts < stops).all() and (stops <= seq_len).all()
    if len(offsets) != rows + 1 or not inside:
        raise TokensError(f"{path}: not the answers of {rows} rows of {seq_len} tokens; tokenize again")
    return Answers(offsets, edges)
