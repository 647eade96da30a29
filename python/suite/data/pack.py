"""Text to token shards: blocks are encoded by anyone in any order, and packed in the order of their numbers.

Two ways of working, the same bytes. In one pass, on one machine: an ordered, bounded queue of encoded blocks feeds one
packer in Rust, nothing is spilled, and memory holds a few blocks and one row group whatever the input's size. In two
passes, on a cluster: blocks spill their ids and report counts, the plan turns counts into spans, and every shard is
cut from its span by whoever gets it. The shards depend on the documents, the tokenizer, `seq_len`, `overlap` and
`rows_per_shard`, and on nothing else.
"""

from __future__ import annotations

import functools
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suite import _core
from suite.base.errors import SourceError, TokensError
from suite.base.store import MANIFEST, locked
from suite.data import shards, tokenizer
from suite.data.formats import Block
from suite.data.shards import Shard, Split, Tokens
from suite.data.source import DEFAULT_BLOCK_BYTES, TextSource
from suite.data.texts import Texts
from suite.data.tokenizer import Tokenizer

DEFAULT_BATCH_SIZE = 50  # documents per call of the encoder
DEFAULT_ROWS_PER_SHARD = 200_000

MAX_LENGTH = 1 << 24
SAMPLE_CHARACTERS = 50_000

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


class Encoded(NamedTuple):
    """A block's part of the token stream."""

    ids: np.ndarray
    documents: int
    text_bytes: int


# Applies a picklable function to items, anywhere, and yields the results in the items' order.
MapInOrder = Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]


@dataclass(frozen=True)
class Shape:
    """The shape of rows and shards. Raises ValueError, through the plan, for one that cannot be."""

    seq_len: int
    overlap: int = 0
    rows_per_shard: int = DEFAULT_ROWS_PER_SHARD

    def __post_init__(self) -> None:
        for name, value in (
            ("seq_len", self.seq_len),
            ("overlap", self.overlap),
            ("rows per shard", self.rows_per_shard),
        ):
            if not 0 <= value <= MAX_LENGTH:
                raise TokensError(f"{name} is {value}; it must be from 0 to {MAX_LENGTH:,}")
        try:
            _core.plan([], self.seq_len, self.overlap, self.rows_per_shard)
        except (ValueError, OverflowError) as error:
            raise TokensError(str(error)) from None


@dataclass(frozen=True)
class Job:
    """All that a worker needs to encode a block or cut a shard, wherever it runs. Small: it is sent with every task."""

    source: TextSource
    tokenizer: Path
    tokenizer_sha256: str
    vocab_size: int
    bos: int
    out_dir: Path
    name: str
    shape: Shape
    batch_size: int
    slow: bool  # encode by the tokenizers library

    def packer(self, first_shard: int = 0) -> _core.Packer:
        return _core.Packer(
            self.out_dir,
            self.name,
            bos=self.bos,
            vocab_size=self.vocab_size,
            seq_len=self.shape.seq_len,
            overlap=self.shape.overlap,
            rows_per_shard=self.shape.rows_per_shard,
            first_shard=first_shard,
        )


class Written(NamedTuple):
    """What a way of working leaves behind: the shards in order, and totals."""

    shards: list[tuple[str, int, int, str]]
    tokens: int
    documents: int
    text_bytes: int


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


Work = Callable[[Job, list[Block], Callable[[int, int], None]], Written]


@functools.lru_cache(maxsize=1)
def _loaded(folder: Path, sha256: str) -> Tokenizer:
    """Once per worker process. Another machine may see another folder under the same name: the hash says so."""
    encoder = tokenizer.load(folder)
    if encoder.sha256 != sha256:
        raise TokensError(f"{folder}: a worker finds another tokenizer there than the job began with")
    return encoder


def encode_block(block: Block, *, job: Job) -> Encoded:
    """Reads and encodes one block; runs in any process."""
    encoder = _loaded(job.tokenizer, job.tokenizer_sha256)
    ids, documents, text_bytes = [], 0, 0
    for texts in job.source.pieces(block):
        ids.append(encoder.reference_stream(texts, job.batch_size) if job.slow else encoder.stream(texts))
        documents += texts.num_documents
        text_bytes += texts.num_bytes
    return Encoded(ids[0] if len(ids) == 1 else np.concatenate(ids), documents, text_bytes)


def one_pass(map_in_order: MapInOrder, map_slowly: MapInOrder | None = None) -> Work:
    """For one machine: blocks stream through one packer. `map_slowly` is for what the tokenizers library encodes."""

    def work(job: Job, blocks: list[Block], on_block: Callable[[int, int], None]) -> Written:
        map_blocks = map_slowly or map_in_order if job.slow else map_in_order
        packer = job.packer()
        documents = text_bytes = 0
        for encoded in map_blocks(functools.partial(encode_block, job=job), blocks):
            packer.push(encoded.ids)
            documents += encoded.documents
            text_bytes += encoded.text_bytes
            on_block(encoded.text_bytes, len(encoded.ids))
        infos, tokens = packer.finish()
        return Written(infos, tokens, documents, text_bytes)

    return work


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
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Tokens, bool]:
    """Writes split `name` into `out_dir`. Returns the folder's manifest, and False when the split was there already.

    Raises TokensError when the folder holds that split from other text, or was made with another tokenizer or
    shape; SourceError for text that cannot be read. Nothing is sealed unless all of it is written.
    """
    assert encoder.folder is not None
    if not _NAME.fullmatch(name):
        raise TokensError(f"split name {name!r}: letters, digits, '_', '-' and '.', beginning with a letter or digit")
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
        splits={},
    )
    job = Job(
        source=source,
        tokenizer=encoder.folder.absolute(),  # workers stand in other folders
        tokenizer_sha256=encoder.sha256,
        vocab_size=encoder.vocab_size,
        bos=encoder.special.bos,
        out_dir=out_dir.absolute(),
        name=name,
        shape=shape,
        batch_size=batch_size,
        slow=_must_be_slow(source.head(blocks[0]), encoder),
    )
    fingerprint = source.fingerprint()
    with locked(out_dir):
        if there := _already(fresh, name, source, fingerprint):
            return there, False
        try:
            written = work(job, blocks, _counting(shape, len(blocks), on_progress))
            if not written.text_bytes:
                raise SourceError(f"{source.spec}: split {source.split!r} has no text")
        except BaseException:
            _remove_shards(out_dir, name, but=set())  # whoever reads the folder must not find half a split
            if [path.name for path in out_dir.iterdir()] == [".lock"]:
                shutil.rmtree(out_dir)
            raise
        rows, dropped, spans = _core.plan([written.tokens], shape.seq_len, shape.overlap, shape.rows_per_shard)
        made = tuple(Shard(*info) for info in written.shards)
        assert [shard.rows for shard in made] == [span[1] for span in spans], "the packer and the plan disagree"
        _remove_shards(out_dir, name, but={shard.name for shard in made})  # of a job that died at this split
        encoder.copy_to(out_dir / "tokenizer")
        entry = Split(
            source=source.identity(),
            slice=source.split,
            fingerprint=fingerprint,
            documents=written.documents,
            text_bytes=written.text_bytes,
            tokens=written.tokens,
            rows=rows,
            dropped_tokens=dropped,
            shards=made,
        )
        others = shards.read(out_dir).splits if (out_dir / MANIFEST).is_file() else {}
        sealed = replace(fresh, splits={**others, name: entry})
        sealed.write()
        return sealed, True


def _counting(shape: Shape, total: int, tell: Callable[[Progress], None]) -> Callable[[int, int], None]:
    now, began = Progress(0, total, 0, 0, 0, 0.0), time.monotonic()

    def on_block(text_bytes: int, tokens: int) -> None:
        nonlocal now
        tokens += now.tokens
        _, _, spans = _core.plan([tokens], shape.seq_len, shape.overlap, shape.rows_per_shard)
        now = Progress(now.blocks + 1, total, now.text_bytes + text_bytes, tokens, len(spans), time.monotonic() - began)
        tell(now)

    return on_block


def _must_be_slow(texts: Texts, encoder: Tokenizer) -> bool:
    """Whether the tokenizers library must encode, which is said. Both encode a sample of the job's own documents."""
    if encoder.slow_because:
        print(f"note: encoded by the tokenizers library, slowly: {encoder.slow_because}", file=sys.stderr)
        return True
    documents, size = [], 0
    for document in texts.documents():
        documents.append(document[:SAMPLE_CHARACTERS])
        size += len(documents[-1])
        if size >= SAMPLE_CHARACTERS:
            break
    sample = Texts.of(documents)
    if np.array_equal(encoder.stream(sample), encoder.reference_stream(sample)):
        return False
    print(
        f"warning: {encoder.folder}: our encoder and the tokenizers library differ on this text; the library encodes "
        "it, slowly. Please report it",
        file=sys.stderr,
    )
    return True


def _remove_shards(folder: Path, name: str, but: set[str]) -> None:
    shard = re.compile(re.escape(name) + r"-\d{5,}\.parquet(\.tmp-.*)?")
    for path in folder.iterdir():
        if shard.fullmatch(path.name) and path.name not in but:
            path.unlink()


def _already(fresh: Tokens, name: str, source: TextSource, fingerprint: str) -> Tokens | None:
    """The folder's manifest when the split is in it. Raises TokensError when the folder holds something else."""
    if not (fresh.folder / MANIFEST).is_file():
        return None
    there = shards.read(fresh.folder)
    mine, theirs = fresh.header(), there.header()
    for key in mine:
        if mine[key] != theirs[key]:
            raise TokensError(
                f"{fresh.folder}: its splits have {key} {theirs[key]!r}, this one would have {mine[key]!r}; "
                "use another --out-dir"
            )
    if name not in there.splits:
        return None
    entry = there.splits[name]
    if entry.fingerprint != fingerprint:
        raise TokensError(
            f"{fresh.folder}: split {name!r} is there already, made from {entry.source} {entry.slice} with other "
            f"text; write this one under another name (--as NAME) or into another --out-dir"
        )
    return there


def split_name(split: str) -> str:
    """`train[:10%]` -> `train`: the name that shards and manifest entry carry."""
    return split.partition("[")[0].partition("+")[0].strip()
