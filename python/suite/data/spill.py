"""Tokenization in two passes, for a cluster: any worker encodes any block and cuts any shard.

First pass: a block's ids go to a file of their own, its counts to the driver. Between: the plan, integers only. Second
pass: each shard is cut from the files that its span touches. What travels is block descriptors, counts and hashes;
text and ids never do. The spill lies beside the shards, where all workers see it, and is 2 bytes a token (4 above a
vocabulary of 65,536) for as long as the job runs.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import secrets
import shutil
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suite import _core
from suite.base.errors import TokensError
from suite.data.formats import Block
from suite.data.pack import Job, Work, Written, encode_block

# Applies a picklable function to items, anywhere, and yields the results as they come.
MapAnywhere = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


class Counted(NamedTuple):
    """What the driver learns of a block."""

    number: int
    tokens: int
    documents: int
    text_bytes: int


def two_passes(map_anywhere: MapAnywhere) -> Work:
    """The same shards as `one_pass`, by workers that share a file system and nothing else."""

    def work(job: Job, blocks: list[Block], on_block: Callable[[int, int], None]) -> Written:
        spill = job.out_dir / f".spill-{job.name}"
        shutil.rmtree(spill, ignore_errors=True)
        spill.mkdir(parents=True)
        try:
            counted: dict[int, Counted] = {}
            for one in map_anywhere(functools.partial(spill_block, job=job, spill=spill), list(enumerate(blocks))):
                counted[one.number] = one
                on_block(one.text_bytes, one.tokens)
            ordered = [counted[number] for number in range(len(blocks))]
            counts = [one.tokens for one in ordered]
            shape = job.shape
            _, _, spans = _core.plan(counts, shape.seq_len, shape.overlap, shape.rows_per_shard)
            edges = [0, *itertools.accumulate(counts)]
            parts = [
                Part(number, start, stop, _touched(edges, start, stop))
                for number, (_, _, start, stop) in enumerate(spans)
            ]
            cut = dict(map_anywhere(functools.partial(cut_shard, job=job, spill=spill), parts))
        finally:
            shutil.rmtree(spill, ignore_errors=True)
        shards = [cut[number] for number in range(len(parts))]
        return Written(
            shards, sum(counts), sum(one.documents for one in ordered), sum(one.text_bytes for one in ordered)
        )

    return work


class Part(NamedTuple):
    """A shard to cut: its number, its span of the stream, and the blocks in it as (number, start, stop)."""

    number: int
    start: int
    stop: int
    blocks: list[tuple[int, int, int]]


def _touched(edges: list[int], start: int, stop: int) -> list[tuple[int, int, int]]:
    first = bisect.bisect_right(edges, start) - 1
    last = bisect.bisect_left(edges, stop)
    return [(number, edges[number], edges[number + 1]) for number in range(first, last)]


def _ids_of(spill: Path, number: int) -> Path:
    return spill / f"block-{number:08d}.ids"


def _check_seen(spill: Path) -> None:
    if not spill.is_dir():
        raise TokensError(
            f"node {socket.gethostname()} does not see {spill.parent}: several nodes need a folder that all of them see"
        )


def spill_block(numbered: tuple[int, Block], *, job: Job, spill: Path) -> Counted:
    """Encodes a block and leaves its ids in the spill. Done twice, it leaves the same file."""
    _check_seen(spill)
    number, block = numbered
    encoded = encode_block(block, job=job)
    path = _ids_of(spill, number)
    temporary = path.with_suffix(f".{secrets.token_hex(4)}.tmp")
    encoded.ids.tofile(temporary)
    temporary.replace(path)
    return Counted(number, len(encoded.ids), encoded.documents, encoded.text_bytes)


def cut_shard(part: Part, *, job: Job, spill: Path) -> tuple[int, tuple[str, int, int, str]]:
    """Writes one shard from the spilled ids that its span touches. Done twice, it leaves the same file."""
    _check_seen(spill)
    packer = job.packer(first_shard=part.number)
    dtype = np.uint16 if job.vocab_size <= 1 << 16 else np.uint32
    for number, begins, ends in part.blocks:
        path = _ids_of(spill, number)
        ids = np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)
        if len(ids) != ends - begins:
            raise TokensError(f"{path}: {len(ids)} ids, {ends - begins} were counted; run the same command again")
        piece = ids[max(part.start - begins, 0) : part.stop - begins]
        packer.push(np.ascontiguousarray(piece))
    [info], _ = packer.finish()
    return part.number, info
