"""jsonl: a line is a record, a document is one field of it; blank lines are none.

A block owns the lines that begin in it. So at a store a file is cut by its size alone, without fetching anything; a
local one is cut where lines end, which costs little and leaves no block without a line.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from suite import _core
from suite.base.errors import SourceError
from suite.data.access import READ_BYTES, Reader, codec_of, is_remote, line_at, reading, size_of
from suite.data.block import ALL, Block
from suite.data.texts import Texts, decoded

LINE_BYTES = 64 << 10  # read at first to find where a line ends


def num_documents(url: str, most: int) -> int:
    """Documents in the file, at most so many."""
    found = 0
    with reading(url) as file:
        for data in _whole_lines(file, ALL, READ_BYTES):
            found += sum(1 for line in data.split(b"\n") if line.strip())
            if found >= most:
                return most
    return found


def blocks(url: str, inside: tuple[int, int] | None, block_bytes: int) -> list[Block]:
    if codec_of(url):
        start, stop = inside or (0, ALL)
        return [Block("jsonl", url, start, stop, streamed=True, piece_bytes=block_bytes)]
    start, stop = _bytes_of(url, inside) if inside else (0, size_of(url))
    found = []
    with contextlib.nullcontext() if is_remote(url) else reading(url) as file:
        while start < stop:
            end = start + block_bytes
            end = min(_line_end(file, min(end, stop) - 1) if file else end, stop)
            found.append(Block("jsonl", url, start, end, piece_bytes=block_bytes))
            start = end
    return found


def _line_end(file: Reader, position: int) -> int:
    """Where the line ends that has this byte."""
    file.seek(position)
    while data := file.read(LINE_BYTES):
        if cut := data.find(b"\n") + 1:
            return position + cut
        position += len(data)
    return position


def _bytes_of(url: str, inside: tuple[int, int]) -> tuple[int, int]:
    """The byte range of documents [first, last)."""
    document, position, start = 0, 0, 0
    with reading(url) as file:
        for data in _whole_lines(file, ALL, READ_BYTES):
            for line in _lines(data):
                if line.strip():
                    if document == inside[0]:
                        start = position
                    document += 1
                position += len(line)
                if document == inside[1]:
                    return start, position
    return start, position


def _lines(data: bytearray) -> Iterator[bytearray]:
    """Cut at \\n alone."""
    start = 0
    while start < len(data):
        stop = data.find(b"\n", start) + 1 or len(data)
        yield data[start:stop]
        start = stop


def pieces(block: Block, feature: str, errors: str) -> Iterator[Texts]:
    """Raises SourceError, naming file and line, for what is not a record with a text in that field."""
    with reading(block.where) as file:
        position, length = (0, ALL) if block.streamed else _first_line(file, block)
        for data in _whole_lines(file, length, block.piece_bytes, beginning=position == 0):
            size = len(data)
            if found := _core.jsonl_texts(data, feature):
                del data  # the texts are a copy
                yield Texts.cut(found[0], np.frombuffer(found[1], np.int64))
            else:
                yield Texts.of(_carefully(block.where, data, position, feature, errors))
            position += size


def records(block: Block, errors: str) -> Iterator[tuple[list[Any], Callable[[int], str]]]:
    """The block's lines as JSON, some at a time, and what says where each of them stands. Raises SourceError."""
    with reading(block.where) as file:
        position, length = _first_line(file, block)
        for data in _whole_lines(file, length, block.piece_bytes, beginning=position == 0):
            lines = [(number, line) for number, line in enumerate(data.split(b"\n")) if line.strip()]

            def where(n: int, lines: list[tuple[int, bytearray]] = lines, position: int = position) -> str:
                return f"{block.where}: line {line_at(block.where, position) + lines[n][0]}"  # reads up to there

            found = []
            for n, (_, line) in enumerate(lines):
                try:
                    found.append(json.loads(decoded(bytes(line), errors, lambda n=n, where=where: where(n))))
                except (ValueError, RecursionError) as error:
                    raise SourceError(f"{where(n)}: not valid JSON ({error})") from None
            yield found, where
            position += len(data)


def _first_line(file: Reader, block: Block) -> tuple[int, int]:
    """Places the file at the first line that begins in the block -> its place, the bytes from there to the end."""
    if block.start == 0:
        return 0, block.stop
    position = block.start - 1
    file.seek(position)
    while position < block.stop and (data := file.read(min(LINE_BYTES, block.stop - position))):
        if cut := data.find(b"\n") + 1:
            file.seek(position + cut)
            return position + cut, block.stop - position - cut
        position += len(data)
    return position, 0


def _whole_lines(file: Reader, length: int, piece_bytes: int, *, beginning: bool = True) -> Iterator[bytearray]:
    """The lines that begin in the next `length` bytes, some at a time. `beginning`: these are the file's first."""
    lines = bytearray()
    while length > 0 and (data := file.read(min(piece_bytes, length))):
        if beginning and (text := data.lstrip()):
            beginning = False
            if text.startswith(b"["):  # said before gigabytes are read in search of the line's end
                raise SourceError(
                    f"{file.url}: one JSON array, expected a record in each line: `jq -c '.[]'` makes that of it"
                )
        length -= len(data)
        cut = data.rfind(b"\n") + 1
        if cut:
            lines += memoryview(data)[:cut]
            whole, lines = [lines], bytearray()
            yield whole.pop()  # and nothing here holds it any longer: a line may be a good part of what memory holds
        lines += memoryview(data)[cut:]
    if not lines:
        return
    size = LINE_BYTES  # on to the end of the last line, which may be long
    while data := file.read(size):
        cut = data.find(b"\n") + 1
        lines += memoryview(data)[: cut or len(data)]
        if cut:
            break
        size = min(2 * size, max(piece_bytes, LINE_BYTES))
    whole = [lines]
    del lines
    yield whole.pop()


def _carefully(url: str, data: bytearray, position: int, feature: str, errors: str) -> list[str]:
    """The same line by line, for a piece in which something is unusual. Raises SourceError for what cannot be read."""

    def where(number: int) -> str:  # only when something is wrong: it reads the file up to there
        return f"{url}: line {line_at(url, position) + number}"

    texts = []
    for number, line in enumerate(data.split(b"\n")):
        if not line.strip():
            continue
        try:
            record = json.loads(decoded(bytes(line), errors, lambda number=number: where(number)))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{where(number)}: not valid JSON ({error})") from None
        if not isinstance(record, dict) or feature not in record:
            keys = ", ".join(record) if isinstance(record, dict) else f"a {type(record).__name__}"
            raise SourceError(f"{where(number)}: no field {feature!r}; it has {keys}")
        text = record[feature]
        if not isinstance(text, str):
            found = "null" if text is None else f"a {type(text).__name__}"
            raise SourceError(f"{where(number)}: field {feature!r} is {found}, expected text")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:  # JSON may escape half a character (\ud83d), which no UTF-8 text can hold
            if errors == "strict":
                raise SourceError(f"{where(number)}: half a character (a lone surrogate); --errors replace") from None
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        texts.append(text)
    return texts
