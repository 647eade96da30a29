"""Parquet, jsonl and txt files as blocks of documents; stories as ranges of numbers.

A block names a file and a range in it: rows of one row group, or bytes that begin and end where documents do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from suite import _core
from suite.base.errors import SourceError
from suite.data import stories
from suite.data.stories import StoriesSpec
from suite.data.texts import Texts, checked, decoded

SUFFIXES = {".parquet": "parquet", ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl", ".txt": "txt"}

MEAN_STORY_BYTES = 443  # only to turn a block's bytes into a number of stories
READ_BYTES = 1 << 20
MAX_BLOCKS_PER_ROW_GROUP = 8
BATCH_ROWS = 1024  # decoded at a time: bounds memory, whatever the row group


@dataclass(frozen=True)
class Block:
    """A range of documents: [start, stop) in bytes for jsonl and txt, in rows or stories otherwise."""

    kind: str
    where: str
    start: int
    stop: int
    row_group: int = 0


def story_blocks(spec: StoriesSpec, split: str, start: int, stop: int, block_bytes: int) -> list[Block]:
    step = max(1, block_bytes // MEAN_STORY_BYTES)
    where = f"{split}@{spec}"
    return [Block("stories", where, first, min(first + step, stop)) for first in range(start, stop, step)]


def num_documents(path: Path, separator: str | None) -> int:
    match SUFFIXES[path.suffix]:
        case "parquet":
            return _parquet(path).metadata.num_rows
        case "jsonl":
            with path.open("rb") as file:
                return sum(1 for line in file if line.strip())
        case _:
            return len(_txt_ranges(path, separator))


def blocks(
    path: Path, inside: tuple[int, int] | None, block_bytes: int, separator: str | None, feature: str
) -> list[Block]:
    """The blocks of a file, or of the documents [first, last) of it."""
    match SUFFIXES[path.suffix]:
        case "parquet":
            return _parquet_blocks(path, inside, block_bytes, feature)
        case "jsonl":
            return _jsonl_blocks(path, inside, block_bytes)
        case _:
            ranges = _txt_ranges(path, separator)
            return _joined(path, ranges[slice(*inside)] if inside else ranges, block_bytes)


def head(block: Block) -> Block:
    """The first documents of a block; as many as it has where they cannot be counted without reading it."""
    return replace(block, stop=min(block.stop, block.start + 64)) if block.kind in ("parquet", "stories") else block


def read(block: Block, feature: str, separator: str | None, errors: str) -> Texts:
    """The documents of a block. Raises SourceError, naming file and row, for what is not text."""
    match block.kind:
        case "stories":
            split, _, spec = block.where.partition("@")
            return stories.texts(StoriesSpec.parse(spec), split, block.start, block.stop)
        case "parquet":
            return _read_parquet(block, feature, errors)
        case "jsonl":
            return _read_jsonl(block, feature, errors)
        case _:
            return _read_txt(block, feature, separator, errors)


# ── parquet ──


def _parquet(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{path}: not a parquet file ({str(error).splitlines()[0]})") from None


def _parquet_blocks(path: Path, inside: tuple[int, int] | None, block_bytes: int, feature: str) -> list[Block]:
    metadata = _parquet(path).metadata
    first, found = 0, []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = [group.column(i) for i in range(group.num_columns)]
        text_bytes = sum(c.total_uncompressed_size for c in columns if c.path_in_schema == feature) or block_bytes
        rows = group.num_rows
        start, stop = (max(inside[0] - first, 0), min(inside[1] - first, rows)) if inside else (0, rows)
        # Reading the end of a row group decodes its beginning too, so a group is cut late, and into a few pieces.
        pieces = min(text_bytes // block_bytes, MAX_BLOCKS_PER_ROW_GROUP) if text_bytes > 4 * block_bytes else 1
        step = max(1, -(-rows // max(1, pieces)))
        where = str(path.absolute())
        found += [Block("parquet", where, row, min(row + step, stop), number) for row in range(start, stop, step)]
        first += rows
    return found


def _batches(file: Any, block: Block, feature: str) -> Iterator[Any]:
    import pyarrow

    try:
        yield from file.iter_batches(BATCH_ROWS, row_groups=[block.row_group], columns=[feature])
    except (pyarrow.ArrowException, OSError) as error:
        raise SourceError(f"{block.where}: damaged ({str(error).splitlines()[0]})") from None


def _read_parquet(block: Block, feature: str, errors: str) -> Texts:
    import pyarrow
    import pyarrow.types as types

    file = _parquet(Path(block.where))
    schema = file.schema_arrow
    if feature not in schema.names:
        raise SourceError(f"{block.where}: no column {feature!r}; it has {', '.join(schema.names)}")
    kind = schema.field(feature).type
    plain = kind.value_type if types.is_dictionary(kind) else kind
    texts_are = (types.is_string, types.is_large_string, types.is_string_view, types.is_binary, types.is_large_binary)
    if not any(test(plain) for test in texts_are):
        raise SourceError(f"{block.where}: column {feature!r} holds {kind}, expected text")
    before = sum(file.metadata.row_group(group).num_rows for group in range(block.row_group))
    columns, row = [], 0
    for batch in _batches(file, block, feature):
        column = batch.column(0).slice(max(block.start - row, 0), max(0, block.stop - max(row, block.start)))
        if column.null_count:
            null = before + max(row, block.start) + column.is_null().to_pylist().index(True)
            raise SourceError(
                f"{block.where}: row {null}: column {feature!r} is null; remove the row or give it a text"
            )
        columns.append(column.cast(plain) if types.is_dictionary(kind) else column)
        row += batch.num_rows
        if row >= block.stop:
            break
    texts = pyarrow.chunked_array(columns).cast(pyarrow.large_binary()).combine_chunks()
    _, edges, data = texts.buffers()
    places = np.frombuffer(edges, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    return checked(
        Texts.cut(np.frombuffer(data or b"", np.uint8), places),
        errors,
        lambda number: f"{block.where}: row {before + block.start + number}",
    )


# ── jsonl ──


def _jsonl_blocks(path: Path, inside: tuple[int, int] | None, block_bytes: int) -> list[Block]:
    start, stop = _jsonl_bytes(path, inside) if inside else (0, path.stat().st_size)
    found = []
    with path.open("rb") as file:
        while start < stop:
            file.seek(min(start + block_bytes, stop) - 1)
            file.readline()  # on to the end of the line that the last byte is in
            end = min(file.tell(), stop)
            found.append(Block("jsonl", str(path.absolute()), start, end))
            start = end
    return found


def _jsonl_bytes(path: Path, inside: tuple[int, int]) -> tuple[int, int]:
    """The byte range of documents [first, last); blank lines are no documents."""
    document, position, start = 0, 0, 0
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                if document == inside[0]:
                    start = position
                document += 1
            position += len(line)
            if document == inside[1]:
                break
    return start, position


def _bytes_of(block: Block) -> bytes:
    with Path(block.where).open("rb") as file:
        file.seek(block.start)
        return file.read(block.stop - block.start)


def _read_jsonl(block: Block, feature: str, errors: str) -> Texts:
    data = _bytes_of(block)
    if found := _core.jsonl_texts(data, feature):
        return Texts.cut(found[0], np.frombuffer(found[1], np.int64))
    return Texts.of(_careful_jsonl(block, data, feature, errors))


def _careful_jsonl(block: Block, data: bytes, feature: str, errors: str) -> list[str]:
    """The same line by line, for blocks in which something is unusual. Raises SourceError for what cannot be read."""
    texts = []
    for number, line in enumerate(data.split(b"\n")):
        if not line.strip():
            continue
        try:
            record = json.loads(decoded(line, errors, lambda number=number: _line(block, number)))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{_line(block, number)}: not valid JSON ({error})") from None
        if not isinstance(record, dict) or feature not in record:
            keys = ", ".join(record) if isinstance(record, dict) else f"a {type(record).__name__}"
            raise SourceError(f"{_line(block, number)}: no field {feature!r}; it has {keys}")
        text = record[feature]
        if not isinstance(text, str):
            found = "null" if text is None else f"a {type(text).__name__}"
            raise SourceError(f"{_line(block, number)}: field {feature!r} is {found}, expected text")
        texts.append(_without_surrogates(text, errors, block, number))
    return texts


def _without_surrogates(text: str, errors: str, block: Block, number: int) -> str:
    """JSON may escape half a character (\\ud83d), which no UTF-8 text can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        if errors == "strict":
            raise SourceError(
                f"{_line(block, number)}: half a character (a lone surrogate); --errors replace"
            ) from None
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _line(block: Block, number: int) -> str:
    with Path(block.where).open("rb") as file:  # only when something is wrong: count the lines before the block
        before = file.read(block.start).count(b"\n")
    return f"{block.where}: line {before + number + 1}"


# ── txt ──


def _txt_ranges(path: Path, separator: str | None) -> list[tuple[int, int]]:
    """Byte ranges of the documents, separators excluded. A file that ends with a separator ends with no document."""
    size = path.stat().st_size
    if separator is None:
        return [(0, size)]
    mark = separator.encode()
    ranges, start, position, tail = [], 0, 0, b""
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            data = tail + chunk
            begin = position - len(tail)
            at = data.find(mark)
            consumed = 0
            while at >= 0:
                ranges.append((start, begin + at))
                consumed = at + len(mark)
                start = begin + consumed
                at = data.find(mark, consumed)
            position += len(chunk)
            keep = min(len(mark) - 1, len(data) - consumed)
            tail = data[len(data) - keep :] if keep else b""
    if start < size:
        ranges.append((start, size))
    return ranges


def _joined(path: Path, ranges: list[tuple[int, int]], block_bytes: int) -> list[Block]:
    """Neighbouring documents in one block, up to `block_bytes`."""
    found: list[Block] = []
    for start, stop in ranges:
        if found and stop - found[-1].start <= block_bytes:
            found[-1] = Block("txt", str(path.absolute()), found[-1].start, stop)
        else:
            found.append(Block("txt", str(path.absolute()), start, stop))
    return found


def _read_txt(block: Block, feature: str, separator: str | None, errors: str) -> Texts:
    if feature != "text":
        raise SourceError(f"{block.where}: no column {feature!r}; a txt file has only 'text'")
    data = _bytes_of(block)
    starts, stops = [0], []
    if separator:
        mark, at = separator.encode(), 0
        while (at := data.find(mark, at)) >= 0:
            stops.append(at)
            at += len(mark)
            starts.append(at)
    stops.append(len(data))
    texts = Texts(data, np.array(starts, np.int64), np.array(stops, np.int64))
    return checked(texts, errors, lambda number: block.where)
