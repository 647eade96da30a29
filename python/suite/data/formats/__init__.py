"""Files as blocks of documents, one module for each format; stories as ranges of numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from suite.data import stories
from suite.data.access import kind_of
from suite.data.block import ALL, Block
from suite.data.formats import csv, jsonl, parquet, txt
from suite.data.stories import StoriesSpec
from suite.data.texts import Texts

__all__ = ["Block", "blocks", "head", "num_documents", "pieces", "story_blocks"]

MEAN_STORY_BYTES = 443  # only to turn a block's bytes into a number of stories
HEAD_BYTES = 64 << 10


def story_blocks(spec: StoriesSpec, split: str, start: int, stop: int, block_bytes: int) -> list[Block]:
    step = max(1, block_bytes // MEAN_STORY_BYTES)
    where = f"{split}@{spec}"
    return [Block("stories", where, first, min(first + step, stop)) for first in range(start, stop, step)]


def num_documents(url: str, separator: str | None, most: int = ALL) -> int:
    """Documents in a file; one that has more than `most` may be said to have `most`."""
    match kind_of(url):
        case "parquet":
            return parquet.num_documents(url)
        case "jsonl":
            return jsonl.num_documents(url, most)
        case "csv":
            return csv.num_documents(url, most)
        case _:
            return txt.num_documents(url, separator, most)


def blocks(
    url: str, inside: tuple[int, int] | None, block_bytes: int, separator: str | None, feature: str
) -> list[Block]:
    """The blocks of a file, or of the documents [first, last) of it."""
    match kind_of(url):
        case "parquet":
            return parquet.blocks(url, inside, block_bytes, feature)
        case "jsonl":
            return jsonl.blocks(url, inside, block_bytes)
        case "csv":
            return csv.blocks(url, inside, block_bytes)
        case _:
            return txt.blocks(url, inside, block_bytes, separator)


def head(block: Block) -> Block:
    """The beginning of a block, to be read in small pieces."""
    stop = min(block.stop, block.start + 64) if block.kind in ("parquet", "stories") else block.stop
    return replace(block, stop=stop, piece_bytes=HEAD_BYTES)


def pieces(block: Block, feature: str, separator: str | None, errors: str) -> Iterator[Texts]:
    """The documents of a block, about `piece_bytes` at a time and at least one piece. Raises SourceError, naming file
    and row, for what is not text."""
    some = _pieces(block, feature, separator, errors)
    if block.streamed:
        some = _between(some, block.start, block.stop)
    empty = True
    for texts in some:
        empty = False
        yield texts
    if empty:
        yield Texts.of([])


def _pieces(block: Block, feature: str, separator: str | None, errors: str) -> Iterator[Texts]:
    match block.kind:
        case "stories":
            split, _, spec = block.where.partition("@")
            return iter([stories.texts(StoriesSpec.parse(spec), split, block.start, block.stop)])
        case "parquet":
            return parquet.pieces(block, feature, errors)
        case "jsonl":
            return jsonl.pieces(block, feature, errors)
        case "csv":
            return csv.pieces(block, feature, errors)
        case _:
            return txt.pieces(block, feature, separator, errors)


def _between(pieces: Iterator[Texts], start: int, stop: int) -> Iterator[Texts]:
    """Documents [start, stop) of what is read from its beginning; nothing is read behind them."""
    number = 0
    for texts in pieces:
        first, last = max(start - number, 0), min(stop - number, texts.num_documents)
        if first < last:
            yield Texts(texts.data, texts.starts[first:last], texts.stops[first:last])
        number += texts.num_documents
        if number >= stop:
            return
