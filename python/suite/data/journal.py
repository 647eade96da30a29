"""What of a split is done already: a killed job, run again, does only what is missing.

The one pass appends what each block came to (blocks.jsonl, lengths.u32, digests.u128) and, when a shard stands, syncs
all that and appends the shard (shards.jsonl). Going on begins at the first row behind the last whole shard: the blocks
before it are not read again. A line that was cut short by the end of the process counts for nothing.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from suite.base.store import sha256_of
from suite.data.encode import Encoded, Job, Shape
from suite.data.shards import Shard

READ_DOCUMENTS = 1 << 20


class Counts(NamedTuple):
    """What a block came to: ids in the stream; tokens, documents and bytes that were kept; what was cut or left out."""

    stream: int
    tokens: int
    documents: int
    text_bytes: int
    cut_tokens: int
    duplicates: int

    @classmethod
    def of(cls, encoded: Encoded, kept: np.ndarray | None, shape: Shape) -> Counts:
        return cls.of_documents(encoded.lengths, encoded.sizes, slice(None) if kept is None else kept, shape)

    @classmethod
    def of_documents(cls, lengths: np.ndarray, sizes: np.ndarray, kept: slice | np.ndarray, shape: Shape) -> Counts:
        """From each document's tokens and bytes, those `kept`."""
        left, content = lengths[kept].astype(np.int64), shape.stride
        tokens = int((np.minimum(left, content) if shape.layout == "documents" else left).sum())
        return cls(
            stream=int(shape.in_stream(left).sum()),
            tokens=tokens,
            documents=len(left),
            text_bytes=int(sizes[kept].sum()),
            cut_tokens=int(left.sum()) - tokens,
            duplicates=len(lengths) - len(left),
        )

    @classmethod
    def total(cls, counts: list[Counts]) -> Counts:
        return cls(*map(sum, zip(*counts, strict=True))) if counts else cls(0, 0, 0, 0, 0, 0)


def begin(job: Job) -> None:
    """Makes the part's folder, empty unless it holds what the same job left there."""
    mark = job.part / "job"
    if mark.is_file() and mark.read_text() == job.identity:
        return
    shutil.rmtree(job.part, ignore_errors=True)
    job.part.mkdir(parents=True)
    mark.write_text(job.identity)


def stands(job: Job, shard: Shard) -> bool:
    """Whether a finished shard is still there, whole: in the part's folder, or already in its place."""
    for folder in (job.part, job.out_dir):
        path = folder / shard.name
        if path.is_file() and path.stat().st_size == shard.bytes and sha256_of(path) == shard.sha256:
            return True
    return False


@dataclass
class Journal:
    """The one pass's record. `skip` ids of the next block's stream are in shards that stand."""

    blocks: list[Counts]
    shards: list[Shard]
    skip: int
    digests: bytes
    files: dict[str, IO[Any]]

    @classmethod
    def open(cls, job: Job) -> Journal:
        begin(job)
        blocks = [Counts(*line) for line in _lines(job.part / "blocks.jsonl")]
        shards = [Shard(*line) for line in _lines(job.part / "shards.jsonl")]
        shards = list(itertools.takewhile(lambda shard: stands(job, shard), shards))
        position = sum(shard.rows for shard in shards) * job.shape.stride
        edges = list(itertools.accumulate((counts.stream for counts in blocks), initial=0))
        known = max(number for number, edge in enumerate(edges) if edge <= position)
        if edges[-1] < position:  # the blocks' record is shorter than the shards': believe neither
            known, shards, position = 0, [], 0
        documents = sum(counts.documents for counts in blocks[:known])
        distinct = sum(counts.documents for counts in blocks[:known]) if job.deduplicate else 0
        files: dict[str, IO[Any]] = {}
        for name, size in (("lengths.u32", 4 * documents), ("digests.u128", 16 * distinct)):
            files[name] = (job.part / name).open("a+b")
            files[name].truncate(size)
        files["digests.u128"].seek(0)
        journal = cls(blocks[:known], shards, position - edges[known], files["digests.u128"].read(), files)
        for name, lines in (("blocks.jsonl", journal.blocks), ("shards.jsonl", [_line(one) for one in shards])):
            files[name] = (job.part / name).open("w", encoding="utf-8")
            files[name].writelines(json.dumps(line) + "\n" for line in lines)
        journal.sync()
        return journal

    def add_block(self, counts: Counts, lengths: np.ndarray, digests: bytes) -> None:
        """A block's counts, and the lengths and hashes of the documents kept."""
        self.blocks.append(counts)
        self.files["lengths.u32"].write(lengths.tobytes())
        self.files["digests.u128"].write(digests)
        self.files["blocks.jsonl"].write(json.dumps(counts) + "\n")

    def add_shard(self, shard: Shard) -> None:
        """A whole shard: what was added before it is on the disk when this is."""
        self.sync()
        self.shards.append(shard)
        self.files["shards.jsonl"].write(json.dumps(_line(shard)) + "\n")
        self.sync("shards.jsonl")

    def sync(self, *names: str) -> None:
        for name in names or tuple(self.files):
            self.files[name].flush()
            os.fsync(self.files[name].fileno())

    def lengths(self) -> Any:
        """The lengths of all documents so far, uint32, some at a time."""
        self.files["lengths.u32"].flush()
        with Path(self.files["lengths.u32"].name).open("rb") as file:
            while data := file.read(4 * READ_DOCUMENTS):
                yield np.frombuffer(data, np.uint32)

    def close(self) -> None:
        for file in self.files.values():
            file.close()


def _line(shard: Shard) -> list[Any]:
    return [shard.name, shard.rows, shard.bytes, shard.sha256]


def _lines(path: Path) -> list[Any]:
    """The whole lines of a file that may have been cut short, or may be absent."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines
