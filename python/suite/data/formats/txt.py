"""txt: a file is a document, or several with a separator between them. A separator at the end ends the last one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from suite.base.errors import SourceError
from suite.data.access import READ_BYTES, Reader, codec_of, is_remote, reading, size_of
from suite.data.block import ALL, Block
from suite.data.texts import Texts, checked


def num_documents(url: str, separator: str | None, most: int) -> int:
    """Documents in the file, at most so many."""
    return sum(1 for _ in islice(_ranges(url, separator), most))


def blocks(url: str, inside: tuple[int, int] | None, block_bytes: int, separator: str | None) -> list[Block]:
    """Documents are found by reading, which a compressed file and a store bear only once: there a file is a block."""
    start, stop = inside or (0, ALL)
    if codec_of(url) or (is_remote(url) and separator):
        return [Block("txt", url, start, stop, streamed=True, piece_bytes=block_bytes)]
    found: list[Block] = []
    for first, last in islice(_ranges(url, separator), start, stop):
        if found and last - found[-1].start <= block_bytes:
            first = found.pop().start  # neighbours go together, up to `block_bytes`
        found.append(Block("txt", url, first, last, piece_bytes=block_bytes))
    return found


def _ranges(url: str, separator: str | None) -> Iterator[tuple[int, int]]:
    """The bytes of each document, without separators."""
    if separator is None:
        yield 0, 0 if codec_of(url) else size_of(url)
        return
    with reading(url) as file:
        position = 0
        for data, starts, stops in _divided(file, separator.encode(), READ_BYTES):
            for start, stop in zip(starts, stops, strict=True):
                yield position + start, position + stop
            position += len(data)


def _divided(file: Reader, mark: bytes, piece_bytes: int) -> Iterator[tuple[bytearray, list[int], list[int]]]:
    """The file in pieces that end behind a separator, and the documents in each."""
    data, looked = bytearray(), 0
    while more := file.read(piece_bytes):
        data += more
        starts, stops, start = [], [], 0
        at = data.find(mark, looked)
        while at >= 0:
            starts.append(start)
            stops.append(at)
            start = at + len(mark)
            at = data.find(mark, start)
        if starts:
            rest = data[start:]
            del data[start:]
            yield data, starts, stops
            data = rest
        looked = max(0, len(data) - len(mark) + 1)
    if data:
        yield data, [0], [len(data)]


def pieces(block: Block, feature: str, separator: str | None, errors: str) -> Iterator[Texts]:
    if feature != "text":
        raise SourceError(f"{block.where}: no column {feature!r}; a txt file has only 'text'")
    with reading(block.where) as file:
        if block.streamed and separator:
            for data, starts, stops in _divided(file, separator.encode(), block.piece_bytes):
                yield _texts(block, data, starts, stops, errors)
            return
        if block.streamed:
            data = bytearray()
            while more := file.read(block.piece_bytes):
                data += more
        else:
            file.seek(block.start)
            data = file.read(block.stop - block.start)
        starts, stops = [0], []
        if separator:
            mark, at = separator.encode(), 0
            while (at := data.find(mark, at)) >= 0:
                stops.append(at)
                at += len(mark)
                starts.append(at)
        stops.append(len(data))
        yield _texts(block, data, starts, stops, errors)


def _texts(block: Block, data: bytes | bytearray, starts: list[int], stops: list[int], errors: str) -> Texts:
    texts = Texts(data, np.array(starts, np.int64), np.array(stops, np.int64))
    return checked(texts, errors, lambda number: block.where)
