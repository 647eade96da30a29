"""parquet: a document is a row of one column. A block is some rows of one row group.

Only the column that is asked for is read, and never a whole row group at once, which may be larger than memory.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from suite.base import hub
from suite.base.errors import SourceError
from suite.data.access import REMOTE_BYTES, codec_of, is_remote, reading, said, seekable
from suite.data.block import ALL, Block
from suite.data.texts import Texts, checked

MAX_BLOCKS_PER_ROW_GROUP = 8
BATCH_BYTES = 256 << 10  # decoded at a time; with rows of 500 bytes larger batches are no faster
MAX_BATCH_ROWS = 1024
READ_BUFFER_BYTES = 1 << 20


@contextlib.contextmanager
def _open(url: str) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as stack:
        raw: Any = url
        if codec_of(url):  # rarely met, as parquet compresses by itself; it is read from its end, so it is unpacked
            raw = stack.enter_context(tempfile.TemporaryFile())
            with reading(url) as packed:
                while data := packed.read(REMOTE_BYTES):
                    raw.write(data)
        elif is_remote(url):
            # Neither pyarrow nor fsspec reads ahead: a buffered column is read from the store in requests of this size.
            stack.enter_context(said(url))
            raw = stack.enter_context(seekable(url, cache_type="none"))
        buffer_size = REMOTE_BYTES if is_remote(url) else READ_BUFFER_BYTES
        try:
            file = stack.enter_context(pq.ParquetFile(raw, buffer_size=buffer_size, pre_buffer=False))
        except (pyarrow.ArrowException, OSError) as error:
            if hub.status_of(error):
                raise  # not the file's fault: said() explains
            raise SourceError(f"{url}: not a parquet file ({_line(error)})") from None
        try:
            yield file
        except (pyarrow.ArrowException, OSError) as error:
            if hub.status_of(error):
                raise
            raise SourceError(f"{url}: damaged ({_line(error)})") from None


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def num_documents(url: str) -> int:
    with _open(url) as file:
        return file.metadata.num_rows


def blocks(url: str, inside: tuple[int, int] | None, block_bytes: int, feature: str) -> list[Block]:
    if codec_of(url):
        start, stop = inside or (0, ALL)
        return [Block("parquet", url, start, stop, streamed=True, piece_bytes=block_bytes)]
    first, found = 0, []
    with _open(url) as file:
        metadata = file.metadata
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        text_bytes = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == feature) or block_bytes
        rows = group.num_rows
        start, stop = (max(inside[0] - first, 0), min(inside[1] - first, rows)) if inside else (0, rows)
        # Reading the end of a row group decodes its beginning too, so a group is cut late, and into a few blocks; at a
        # store it would be fetched again as well.
        late = text_bytes > 4 * block_bytes and not is_remote(url)
        num_blocks = min(text_bytes // block_bytes, MAX_BLOCKS_PER_ROW_GROUP) if late else 1
        step = max(1, -(-rows // max(1, num_blocks)))
        found += [
            Block("parquet", url, row, min(row + step, stop), number, piece_bytes=block_bytes)
            for row in range(start, stop, step)
        ]
        first += rows
    return found


def _batches(file: Any, block: Block, feature: str) -> Iterator[Any]:
    """The row group's rows from the first, in batches of about BATCH_BYTES, whatever their lengths."""
    rows, groups = 16, None if block.streamed else [block.row_group]
    for batch in file.iter_batches(rows, row_groups=groups, columns=[feature]):
        yield batch
        # Metadata cannot tell the length of rows: a dictionary hides it, and they may grow towards the end.
        rows = max(1, min(2 * rows, rows * BATCH_BYTES // max(1, batch.nbytes), MAX_BATCH_ROWS))
        file.reader.set_batch_size(rows)


def pieces(block: Block, feature: str, errors: str) -> Iterator[Texts]:
    """Raises SourceError, naming file and row, for a null, a missing column, one that is not text."""
    import pyarrow

    with _open(block.where) as file:
        plain = _text_type(block.where, file.schema_arrow, feature)
        before = sum(file.metadata.row_group(group).num_rows for group in range(block.row_group))
        start, stop = (0, ALL) if block.streamed else (block.start, block.stop)
        columns, size, row, first = [], 0, 0, start
        for batch in _batches(file, block, feature):
            column = batch.column(0).slice(max(start - row, 0), max(0, stop - max(row, start)))
            if column.null_count:
                null = before + max(row, start) + column.is_null().to_pylist().index(True)
                raise SourceError(
                    f"{block.where}: row {null}: column {feature!r} is null; remove the row or give it a text"
                )
            column = column.cast(plain) if pyarrow.types.is_dictionary(column.type) else column
            if columns and size + column.nbytes > block.piece_bytes:
                yield _texts(block.where, columns, before + first, errors)
                columns, size, first = [], 0, max(row, start)
            if len(column):
                columns.append(column)
                size += column.nbytes
            row += batch.num_rows
            del batch, column
            if row >= stop:
                break
    del file  # closed: with a long document it holds as much again in decoded pages
    if columns:
        texts = _texts(block.where, columns, before + first, errors)
        del columns
        yield texts


def records(block: Block, columns: tuple[str, ...]) -> Iterator[tuple[list[Any], Callable[[int], str]]]:
    """The block's rows as records of those `columns` that the file has, some at a time, and what says where each of
    them stands."""
    with _open(block.where) as file:
        known = [name for name in columns if name in file.schema_arrow.names]
        if not known:
            names = ", ".join(file.schema_arrow.names)
            raise SourceError(f"{block.where}: none of the columns {', '.join(columns)}; it has {names}")
        before = sum(file.metadata.row_group(group).num_rows for group in range(block.row_group))
        row = 0
        for batch in file.iter_batches(MAX_BATCH_ROWS, row_groups=[block.row_group], columns=known):
            part = batch.slice(max(block.start - row, 0), max(0, block.stop - max(row, block.start)))
            first = before + max(row, block.start)
            yield part.to_pylist(), lambda n, first=first: f"{block.where}: row {first + n}"
            row += batch.num_rows
            if row >= block.stop:
                break


def _text_type(url: str, schema: Any, feature: str) -> Any:
    """The type of the column's values. Raises SourceError when they are not texts."""
    import pyarrow.types as types

    if feature not in schema.names:
        raise SourceError(f"{url}: no column {feature!r}; it has {', '.join(schema.names)}")
    kind = schema.field(feature).type
    plain = kind.value_type if types.is_dictionary(kind) else kind
    texts_are = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    if not any(test(plain) for test in texts_are):
        raise SourceError(f"{url}: column {feature!r} holds {kind}, expected text")
    return plain


def _texts(url: str, columns: list[Any], row: int, errors: str) -> Texts:
    import pyarrow

    wide = [column.cast(pyarrow.large_binary()) for column in columns]
    texts = wide[0] if len(wide) == 1 else pyarrow.concat_arrays(wide)
    _, edges, data = texts.buffers()
    places = np.frombuffer(edges, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return checked(
        Texts.cut(np.frombuffer(data or b"", np.uint8), places), errors, lambda number: f"{url}: row {row + number}"
    )
