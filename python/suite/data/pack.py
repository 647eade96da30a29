"""Text to token shards: blocks are encoded by anyone in any order, and packed in the order of their numbers.

Two ways of working, the same bytes. In one pass, on one machine: an ordered, bounded queue of encoded blocks feeds one
packer in Rust, nothing is spilled, and memory holds a few blocks and one row group whatever the input's size. In two
passes, on a cluster: blocks spill their ids and report counts, the plan turns counts into spans, and every shard is
cut from its span by whoever gets it. The shards depend on the documents, the tokenizer and the shape, and on nothing
else. All lies in a hidden folder until it is whole, with a record of what is done: a killed job goes on from there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suite import __version__, _core
from suite.base.errors import SourceError, SuiteError, TokensError
from suite.base.store import MANIFEST, locked, sync
from suite.data import shards
from suite.data.encode import Encoded, Job, Shape, encode_block, know, must_be_slow, stream_of
from suite.data.formats import Block
from suite.data.journal import Counts, Journal
from suite.data.shards import ChatEntry, Shard, Split, Tokens
from suite.data.source import DEFAULT_BLOCK_BYTES, TextSource
from suite.data.tokenizer import Tokenizer

DEFAULT_BATCH_SIZE = 50  # documents per call of the encoder

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)

# Applies a picklable function to items, anywhere, and yields the results in the items' order.
MapInOrder = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


class Written(NamedTuple):
    """What a way of working leaves in the part's folder: the shards in order, the index, totals, a chat's answers."""

    shards: list[Shard]
    index: Shard
    counts: Counts
    chat: ChatEntry | None = None


class Progress(NamedTuple):
    """How far a job is, as `tokenize` tells after each block. `shards` are those that the tokens so far fill."""

    blocks: int
    blocks_total: int
    text_bytes: int
    tokens: int
    shards: int
    seconds: float

    def __str__(self) -> str:
        per_second = 1e-6 / max(self.seconds, 1e-9)
        return (
            f"{self.text_bytes / 1e6:,.0f} MB  {self.text_bytes * per_second:,.1f} MB/s  "
            f"{self.tokens * per_second:,.2f}M tokens/s  {self.shards} shard{'s' * (self.shards != 1)}"
        )


# Told of every block's counts, as it is done.
OnBlock = Callable[[Counts], None]
Work = Callable[[Job, list[Block], OnBlock], Written]


def one_pass(map_in_order: MapInOrder, map_slowly: MapInOrder | None = None) -> Work:
    """For one machine: blocks stream through one packer. `map_slowly` is for what the tokenizers library encodes."""

    def work(job: Job, blocks: list[Block], on_block: OnBlock) -> Written:
        map_blocks = map_slowly or map_in_order if job.slow else map_in_order
        journal = Journal.open(job)
        try:
            distinct = _core.Distinct()
            distinct.firsts(journal.digests)
            packer = job.packer(len(journal.shards))
            skip = journal.skip
            for encoded in map_blocks(functools.partial(encode_block, job=job), blocks[len(journal.blocks) :]):
                kept = _kept(encoded, distinct) if job.deduplicate else None
                with _opened(encoded, job) as ids:
                    for part in stream_of(ids, job.shape.in_stream(encoded.lengths), kept, skip, sys.maxsize):
                        packer.push(part)
                skip = 0
                counts = Counts.of(encoded, kept, job.shape)
                journal.add_block(counts, *_of_kept(encoded, kept))
                for shard in packer.written():
                    journal.add_shard(Shard(*shard))
                on_block(counts)
            last, _ = packer.finish()
            index = _core.IndexWriter(job.part / f"{job.name}.documents")
            for lengths in journal.lengths():
                index.push(lengths)
            made = [*journal.shards, *(Shard(*shard) for shard in last)]
            return Written(made, Shard(*index.finish()), Counts.total(journal.blocks))
        finally:
            journal.close()

    return work


def _kept(encoded: Encoded, distinct: _core.Distinct) -> np.ndarray | None:
    """Which documents are the first with their text, bool [documents]; None for all."""
    firsts = np.frombuffer(distinct.firsts(encoded.digests), np.uint8) != 0
    return None if firsts.all() else firsts


def _of_kept(encoded: Encoded, kept: np.ndarray | None) -> tuple[np.ndarray, bytes]:
    if kept is None:
        return encoded.lengths, encoded.digests
    digests = np.frombuffer(encoded.digests, np.dtype((np.void, 16)))
    return encoded.lengths[kept], digests[kept].tobytes()


@contextlib.contextmanager
def _opened(encoded: Encoded, job: Job) -> Iterator[np.ndarray]:
    """The ids, from memory or from the file that is gone afterwards."""
    if isinstance(encoded.ids, np.ndarray):
        yield encoded.ids
        return
    try:
        yield np.memmap(encoded.ids, job.dtype, "r")
    finally:
        encoded.ids.unlink()


def tokenize(
    source: TextSource,
    encoder: Tokenizer,
    out_dir: Path,
    shape: Shape,
    work: Work,
    *,
    name: str,
    batch_size: int = DEFAULT_BATCH_SIZE,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
    deduplicate: bool = False,
    rendered: str = "",
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Tokens, bool]:
    """Writes split `name` into `out_dir`. Returns the folder's manifest, and False when the split was there already.

    With `deduplicate`, of equal documents the first stays; `rendered` says what `work` makes of them. Raises
    TokensError when the folder holds that split from other text, or was made with another tokenizer or shape;
    SourceError for text that cannot be read. Nothing is sealed unless all is written; what a killed job left is gone
    on from.
    """
    assert encoder.folder is not None
    if not _NAME.fullmatch(name):
        raise TokensError(f"split name {name!r}: letters, digits, '_', '-' and '.', beginning with a letter or digit")
    if shape.layout == "documents" and encoder.special.pad in (None, encoder.special.bos, encoder.special.eos):
        raise TokensError(
            f"{encoder.folder}: rows that are documents are filled up with a pad token, and this tokenizer has none "
            "of its own"
        )
    blocks = source.blocks(block_bytes)
    fresh = Tokens(
        folder=out_dir,
        tokenizer_sha256=encoder.sha256,
        vocab_size=encoder.vocab_size,
        bos=encoder.special.bos,
        eos=encoder.special.eos,
        pad=encoder.special.pad,
        seq_len=shape.seq_len,
        overlap=shape.overlap,
        rows_per_shard=shape.rows_per_shard,
        layout=shape.layout,
        splits={},
    )
    fingerprint = source.fingerprint() + "+deduplicated" * deduplicate + rendered
    with locked(out_dir):
        if there := _already(fresh, name, source, fingerprint):
            return there, False
        job = Job(
            source=source,
            tokenizer=encoder.folder.absolute(),  # workers stand in other folders
            tokenizer_sha256=encoder.sha256,
            vocab_size=encoder.vocab_size,
            bos=encoder.special.bos,
            eos=encoder.special.eos,
            pad=encoder.special.pad,
            out_dir=out_dir.absolute(),
            name=name,
            shape=shape,
            batch_size=batch_size,
            slow=must_be_slow(source.head(blocks[0]), encoder),
            deduplicate=deduplicate,
            identity=_identity(fresh, name, fingerprint, blocks),
        )
        know(job.tokenizer, encoder)
        try:
            written = work(job, blocks, _counting(shape, len(blocks), on_progress))
            if not written.counts.text_bytes:
                raise SourceError(f"{source.spec}: split {source.split!r} has no text")
        except SuiteError:  # a mistake, not an accident: there is nothing to go on from
            shutil.rmtree(job.part, ignore_errors=True)
            if [path.name for path in out_dir.iterdir()] == [".lock"]:
                shutil.rmtree(out_dir)
            raise
        entry = _entry(source, fingerprint, shape, written)
        encoder.copy_to(out_dir / "tokenizer")
        for file in entry.files:
            if (job.part / file.name).is_file():  # else a job that died right here moved it
                (job.part / file.name).replace(out_dir / file.name)
        sync(out_dir)
        others = shards.read(out_dir).splits if (out_dir / MANIFEST).is_file() else {}
        sealed = replace(fresh, splits={**others, name: entry})
        sealed.write()
        shutil.rmtree(job.part)
        return sealed, True


def _identity(fresh: Tokens, name: str, fingerprint: str, blocks: list[Block]) -> str:
    digest = hashlib.sha256(json.dumps([__version__, shards.SHARD_FORMAT, fresh.header(), name, fingerprint]).encode())
    for block in blocks:
        digest.update(repr(block).encode())
    return digest.hexdigest()


def _entry(source: TextSource, fingerprint: str, shape: Shape, written: Written) -> Split:
    counts = written.counts
    rows, dropped, spans = shape.plan([counts.stream])
    assert [shard.rows for shard in written.shards] == [span[1] for span in spans], "the packer and the plan disagree"
    return Split(
        source=source.identity(),
        slice=source.split,
        fingerprint=fingerprint,
        documents=counts.documents,
        duplicates=counts.duplicates,
        text_bytes=counts.text_bytes,
        tokens=counts.tokens,
        rows=rows,
        dropped_tokens=dropped + counts.cut_tokens,
        shards=tuple(written.shards),
        index=written.index,
        chat=written.chat,
    )


def _counting(shape: Shape, total: int, tell: Callable[[Progress], None]) -> OnBlock:
    now, stream, began = Progress(0, total, 0, 0, 0, 0.0), 0, time.monotonic()

    def on_block(counts: Counts) -> None:
        nonlocal now, stream
        stream += counts.stream
        _, _, spans = shape.plan([stream])
        seconds = time.monotonic() - began
        now = Progress(
            now.blocks + 1, total, now.text_bytes + counts.text_bytes, now.tokens + counts.tokens, len(spans), seconds
        )
        tell(now)

    return on_block


def _already(fresh: Tokens, name: str, source: TextSource, fingerprint: str) -> Tokens | None:
    """The folder's manifest when the split is in it. Raises TokensError when the folder holds something else."""
    if not (fresh.folder / MANIFEST).is_file():
        return None
    there = shards.read(fresh.folder)
    mine, theirs = fresh.header(), there.header()
    if there.tokenizer_sha256 != fresh.tokenizer_sha256:
        raise TokensError(
            f"{fresh.folder}: made with another tokenizer (SHA-256 {there.tokenizer_sha256[:12]}, not "
            f"{fresh.tokenizer_sha256[:12]}); take {fresh.folder / 'tokenizer'}, or another --out-dir"
        )
    for key in mine:
        if mine[key] != theirs[key]:
            raise TokensError(
                f"{fresh.folder}: its splits have {key} {theirs[key]!r}, this one would have {mine[key]!r}; "
                "use another --out-dir"
            )
    if name not in there.splits:
        return None
    entry = there.splits[name]
    sizes = {path.name: path.stat().st_size for path in fresh.folder.iterdir() if path.is_file()}
    if entry.fingerprint == fingerprint and any(sizes.get(file.name) != file.bytes for file in entry.files):
        return None  # one was lost or cut short: made again, they are the same
    if entry.fingerprint != fingerprint:
        raise TokensError(
            f"{fresh.folder}: split {name!r} is there already, made from {entry.source} {entry.slice} with other "
            f"text; write this one under another name (--as NAME) or into another --out-dir"
        )
    return there


def split_name(split: str) -> str:
    """`train[:10%]` -> `train`: the name that shards and manifest entry carry."""
    return split.partition("[")[0].partition("+")[0].strip()
