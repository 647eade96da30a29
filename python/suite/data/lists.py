"""Rows that others wrote: a parquet column of lists of integers, all of one length.

Read by pyarrow, a batch of rows at a time, and checked as they are read: every mistake names the file and the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from suite.base.errors import TokensError

BATCH_TOKENS = 1 << 20


def open_column(path: Path, column: str) -> Any:
    """The parquet file, when it has such a column. Raises TokensError when it is no parquet file or has not."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise TokensError(f"{path}: not a parquet file that can be read: {_line(error)}") from None
    if column not in schema.names:
        raise TokensError(f"{path}: no column {column!r}; it has {', '.join(schema.names) or 'none'}")
    kind = schema.field(column).type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not pa.types.is_integer(kind.value_type):
        raise TokensError(f"{path}: column {column!r} is {kind}, expected lists of integers")
    return file


def batches(path: Path, column: str, seq_len: int | None, vocab_size: int) -> Iterator[np.ndarray]:
    """The rows, [rows, seq_len] of uint16, or uint32 for vocabularies above 65,536; some thousand at a time.

    Without `seq_len` the first row's length is the length of all. Raises TokensError for a null, a row of another
    length, and an id beyond the vocabulary.
    """
    import pyarrow as pa

    file = open_column(path, column)
    first, metadata = 0, file.metadata
    average = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)) // (
        4 * max(1, metadata.num_rows)
    )
    size = min(4096, max(1, BATCH_TOKENS // max(1, average, seq_len or 0)))
    try:
        for batch in file.iter_batches(size, columns=[column]):
            lists = batch.column(0)
            if not len(lists):
                continue
            if seq_len is None:
                seq_len = len(lists[0]) if lists[0].is_valid else 1  # the null is refused below
            yield _rows(lists, path, column, first, seq_len, vocab_size)
            first += len(lists)
    except (pa.ArrowException, OSError) as error:
        raise TokensError(f"{path}: damaged near row {first}: {_line(error)}") from None


def _rows(lists: Any, path: Path, column: str, first: int, seq_len: int, vocab_size: int) -> np.ndarray:
    import pyarrow as pa

    def refuse(at: int, why: str) -> TokensError:
        return TokensError(f"{path}: column {column!r}, row {first + at} {why}")

    if not seq_len:
        raise refuse(0, "has no tokens")
    if lists.null_count:
        raise refuse(int(np.flatnonzero(lists.is_null().to_numpy(zero_copy_only=False))[0]), "is null")
    if pa.types.is_fixed_size_list(lists.type):
        lengths = np.full(len(lists), lists.type.list_size)
    else:
        lengths = np.diff(lists.offsets.to_numpy())
    other = np.flatnonzero(lengths != seq_len)
    if len(other):
        raise refuse(int(other[0]), f"has {lengths[other[0]]} tokens, expected {seq_len} as the rows before it")
    values = lists.flatten()
    if values.null_count:
        at = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0])
        raise refuse(at // seq_len, f"has a null at token {at % seq_len}")
    ids = values.to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero((ids < 0) | (ids >= vocab_size))
    if len(wrong):
        at = int(wrong[0])
        raise refuse(at // seq_len, f"has id {ids[at]}, the tokenizer's vocabulary has {vocab_size}")
    return ids.astype(np.uint32 if vocab_size > 1 << 16 else np.uint16).reshape(-1, seq_len)


def _line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
