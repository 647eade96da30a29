"""csv and tsv: a header row, and rows as in RFC 4180 and Python's csv module. An empty cell is an empty text.

A field in quotes may hold line ends, so that only reading from the beginning tells rows: a file is one block, read in
pieces. Rows are parsed in Rust (rust/core/src/csv.rs) and count from 0, the header not counted, as parquet's do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from suite import _core
from suite.base.errors import SourceError
from suite.data.access import READ_BYTES, Reader, reading, suffix_of
from suite.data.block import ALL, Block
from suite.data.texts import Texts, checked

_SEPARATORS = {".csv": ord(","), ".tsv": ord("\t")}


def num_documents(url: str, most: int) -> int:
    """Rows of the file, at most so many."""
    found = 0
    for texts in _columns(url, None, READ_BYTES):
        found += texts.num_documents
        if found >= most:
            return most
    return found


def blocks(url: str, inside: tuple[int, int] | None, block_bytes: int) -> list[Block]:
    start, stop = inside or (0, ALL)
    return [Block("csv", url, start, stop, streamed=True, piece_bytes=block_bytes)]


def pieces(block: Block, feature: str, errors: str) -> Iterator[Texts]:
    """Raises SourceError, naming file and row, for a missing column and a row that is not as the header says."""
    row = 0
    for texts in _columns(block.where, feature, block.piece_bytes):
        before = row
        yield checked(texts, errors, lambda number, before=before: f"{block.where}: row {before + number}")
        row += texts.num_documents


def _columns(url: str, feature: str | None, piece_bytes: int) -> Iterator[Texts]:
    """A column's texts, some at a time; the first column's for no feature."""
    separator = _SEPARATORS[suffix_of(url)]
    with reading(url) as file:
        names, data, last = _header(file, separator, piece_bytes)
        column = 0 if feature is None else _column(url, names, feature)
        row = 0
        while True:
            texts, edges, taken, problem = _core.csv_texts(data, separator, column, len(names), last)
            places = np.frombuffer(edges, np.int64)
            row += len(places) - 1
            del data[:taken]
            if len(places) > 1:
                yield Texts.cut(texts, places)
            if problem:
                raise SourceError(f"{url}: row {row}: {problem}")
            if last:
                return
            del texts, edges, places
            # A row that is longer than a piece is looked at again only when a quarter more of it is there.
            more = file.read(max(piece_bytes, len(data) // 4))
            data += more
            last = not more


def _header(file: Reader, separator: int, piece_bytes: int) -> tuple[list[str], bytearray, bool]:
    """The names of the columns, what was read behind them, and whether that is all."""
    data = bytearray()
    while True:
        more = file.read(max(piece_bytes, len(data)))
        data += more
        if data.startswith(b"\xef\xbb\xbf"):
            del data[:3]  # the byte order mark that spreadsheets write
        try:
            found = _core.csv_header(data, separator, not more)
            names = [name.decode() for name in found[0]] if found else []
        except ValueError as error:
            raise SourceError(f"{file.url}: its header is not one ({error})") from None
        if found:
            del data[: found[1]]
        if found or not more:
            return names, data, not more


def _column(url: str, names: list[str], feature: str) -> int:
    if not names:
        raise SourceError(f"{url}: empty; a csv file begins with the names of its columns")
    if names.count(feature) != 1:
        what = "no column" if feature not in names else "more than one column"
        raise SourceError(f"{url}: {what} {feature!r}; it has {', '.join(names)}")
    return names.index(feature)
