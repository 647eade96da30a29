"""A block: a range of documents that whoever gets it can read. Small, because it travels in place of the text."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_BLOCK_BYTES = 8 << 20
ALL = 1 << 62  # documents: to the end of the file


@dataclass(frozen=True)
class Block:
    """Documents of one file, or stories.

    [start, stop) are bytes of jsonl and txt files, rows of a parquet file's row group, or numbers of stories. Where a
    file can be read only from its beginning (`streamed`: it is compressed, or csv), they are numbers of documents.
    """

    kind: str
    where: str  # a path or URL; `split@spec` for stories
    start: int
    stop: int
    row_group: int = 0
    streamed: bool = False
    piece_bytes: int = DEFAULT_BLOCK_BYTES  # about as much text as is held at a time
