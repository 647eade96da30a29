"""Tokenization in two passes, for a cluster: any worker encodes any block and cuts any shard.

First pass: a block's ids go to a file of their own, its counts to the driver. Between: the plan, integers only. Second
pass: each shard is cut from the files that its span touches. What travels is block descriptors, counts and hashes;
text and ids never do. The spill lies beside the shards, where all workers see it, and is 2 bytes a token (4 above a
vocabulary of 65,536) for as long as the job runs. What is done is a file that says so, so a job that is run again
encodes only the blocks, and cuts only the shards, that are missing.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import secrets
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suite import _core
from suite.base.errors import TokensError
from suite.base.store import read_json, write_json
from suite.data.encode import Job, append, encode_block, stream_of
from suite.data.formats import Block
from suite.data.journal import Counts, begin, stands
from suite.data.pack import OnBlock, Work, Written
from suite.data.shards import Shard

# Applies a picklable function to items, anywhere, and yields the results as they come.
MapAnywhere = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


class Spilled(NamedTuple):
    """The files of a block: its ids, its documents' lengths, and, where duplicates go, sizes, hashes and who stays."""

    ids: Path
    lengths: Path
    sizes: Path
    digests: Path
    kept: Path
    counts: Path

    @classmethod
    def of(cls, job: Job, number: int) -> Spilled:
        return cls(*(job.part / f"block-{number:08d}.{field}" for field in cls._fields))


class Part(NamedTuple):
    """A shard to cut: its number, its span of the stream, and the blocks in it as (number, start, stop)."""

    number: int
    start: int
    stop: int
    blocks: list[tuple[int, int, int]]


def two_passes(map_anywhere: MapAnywhere) -> Work:
    """The same shards as `one_pass`, by workers that share a file system and nothing else."""

    def work(job: Job, blocks: list[Block], on_block: OnBlock) -> Written:
        begin(job)
        counts = _spilled(job, blocks, map_anywhere, on_block)
        if job.deduplicate:
            counts = _without_duplicates(job, counts)
        index = _core.IndexWriter(job.part / f"{job.name}.documents")
        for number in range(len(blocks)):
            files = Spilled.of(job, number)
            index.push(_read(files.lengths, np.uint32)[_kept(files, slice(None))])
        _, _, spans = job.shape.plan([one.stream for one in counts])
        edges = [0, *itertools.accumulate(one.stream for one in counts)]
        parts = [
            Part(number, start, stop, _touched(edges, start, stop)) for number, (_, _, start, stop) in enumerate(spans)
        ]
        done: dict[int, Shard] = {part.number: shard for part in parts if (shard := _cut_before(job, part.number))}
        missing = [part for part in parts if part.number not in done]
        done |= dict(map_anywhere(functools.partial(cut_shard, job=job), missing)) if missing else {}
        return Written([done[part.number] for part in parts], Shard(*index.finish()), Counts.total(counts))

    return work


def _spilled(job: Job, blocks: list[Block], map_anywhere: MapAnywhere, on_block: OnBlock) -> list[Counts]:
    """The counts of every block, in order; all of them are on the disk now."""
    counts: dict[int, Counts] = {}
    for number in range(len(blocks)):
        if (file := Spilled.of(job, number).counts).is_file():
            counts[number] = Counts(*read_json(file))
            on_block(counts[number])
    missing = [numbered for numbered in enumerate(blocks) if numbered[0] not in counts]
    for number, one in map_anywhere(functools.partial(spill_block, job=job), missing) if missing else ():
        counts[number] = one
        on_block(one)
    return [counts[number] for number in range(len(blocks))]


def _without_duplicates(job: Job, counts: list[Counts]) -> list[Counts]:
    """Marks who stays, in corpus order, and counts again."""
    distinct, left = _core.Distinct(), []
    for number, one in enumerate(counts):
        files = Spilled.of(job, number)
        kept = np.frombuffer(distinct.firsts(files.digests.read_bytes()), np.uint8) != 0
        _write(files.kept, [kept])
        lengths, sizes = _read(files.lengths, np.uint32), _read(files.sizes, np.int64)
        left.append(one if kept.all() else Counts.of_documents(lengths, sizes, kept, job.shape))
    return left


def _touched(edges: list[int], start: int, stop: int) -> list[tuple[int, int, int]]:
    first = bisect.bisect_right(edges, start) - 1
    last = bisect.bisect_left(edges, stop)
    return [(number, edges[number], edges[number + 1]) for number in range(first, last)]


def _check_seen(job: Job) -> None:
    if not job.part.is_dir():
        raise TokensError(
            f"node {socket.gethostname()} does not see {job.out_dir}: several nodes need a folder that all of them see"
        )


def spill_block(numbered: tuple[int, Block], *, job: Job) -> tuple[int, Counts]:
    """Encodes a block and leaves its ids in the spill. Done twice, it leaves the same files; the counts come last."""
    _check_seen(job)
    number, block = numbered
    encoded, files = encode_block(block, job=job), Spilled.of(job, number)
    if isinstance(encoded.ids, Path):
        encoded.ids.replace(files.ids)
    else:
        _write(files.ids, [encoded.ids])
    _write(files.lengths, [encoded.lengths])
    if job.deduplicate:
        _write(files.sizes, [encoded.sizes])
        _write(files.digests, [np.frombuffer(encoded.digests, np.uint8)])
    counts = Counts.of(encoded, None, job.shape)
    write_json(files.counts, counts)
    return number, counts


def _write(path: Path, arrays: list[np.ndarray]) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    append(temporary, arrays)
    temporary.replace(path)


def _read(path: Path, dtype: Any) -> np.ndarray:
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


def _kept(files: Spilled, everything: Any) -> Any:
    return _read(files.kept, np.bool_) if files.kept.is_file() else everything


def _cut_before(job: Job, number: int) -> Shard | None:
    """The shard that an earlier run of this job cut, if it stands."""
    record = _record(job, number)
    shard = Shard(*read_json(record)) if record.is_file() else None
    return shard if shard and stands(job, shard) else None


def _record(job: Job, number: int) -> Path:
    return job.part / f"shard-{number:08d}.json"


def cut_shard(part: Part, *, job: Job) -> tuple[int, Shard]:
    """Writes one shard from the spilled ids that its span touches. Done twice, it leaves the same file."""
    _check_seen(job)
    packer = job.packer(part.number)
    for number, begins, ends in part.blocks:
        pushed = 0
        for ids in _stream(job, number, max(part.start - begins, 0), part.stop - begins):
            packer.push(np.ascontiguousarray(ids))
            pushed += len(ids)
        if pushed != min(ends, part.stop) - max(begins, part.start):
            raise TokensError(f"{job.part}: block {number} is not what was counted; run the same command again")
    [shard], _ = packer.finish()
    write_json(_record(job, part.number), shard)
    return part.number, Shard(*shard)


def _stream(job: Job, number: int, start: int, stop: int) -> Iterator[np.ndarray]:
    files = Spilled.of(job, number)
    spans = job.shape.in_stream(_read(files.lengths, np.uint32)) if files.kept.is_file() else np.empty(0, np.int64)
    return stream_of(_read(files.ids, job.dtype), spans, _kept(files, None), start, min(stop, sys.maxsize))
