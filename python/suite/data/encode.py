"""What a worker does: a block of text becomes its part of the token stream, wherever the worker runs.

The stream is every document's ids and `<eos>`, in corpus order. Where rows are documents, each one's part is cut or
padded to a row's length instead, so that the same plan, packer and spill make rows of it.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suite import _core
from suite.base.errors import TokensError
from suite.data import tokenizer
from suite.data.formats import Block
from suite.data.source import TextSource
from suite.data.texts import Texts
from suite.data.tokenizer import Tokenizer

DEFAULT_ROWS_PER_SHARD = 200_000
MAX_LENGTH = 1 << 24
LAYOUTS = ("stream", "documents")
SAMPLE_CHARACTERS = 50_000
SPOOL_TOKENS = 32 << 20  # a block with more (one large compressed file, say) waits for its turn on the disk
SLICE_TOKENS = 16 << 20


@dataclass(frozen=True)
class Shape:
    """The shape of rows and shards. Raises TokensError for one that cannot be.

    layout "stream": rows of the eos-joined stream; "documents": a document per row, cut or padded to `seq_len`.
    """

    seq_len: int
    overlap: int = 0
    rows_per_shard: int = DEFAULT_ROWS_PER_SHARD
    layout: str = "stream"

    def __post_init__(self) -> None:
        for name, value in (
            ("seq_len", self.seq_len),
            ("overlap", self.overlap),
            ("rows per shard", self.rows_per_shard),
        ):
            if not 0 <= value <= MAX_LENGTH:
                raise TokensError(f"{name} is {value}; it must be from 0 to {MAX_LENGTH:,}")
        try:
            self.plan([])
        except (ValueError, OverflowError) as error:
            raise TokensError(str(error)) from None
        if self.layout not in LAYOUTS:
            raise TokensError(f"layout {self.layout!r}: expected {' or '.join(LAYOUTS)}")
        if self.layout == "documents" and self.overlap:
            raise TokensError(f"overlap is {self.overlap}; rows that are documents do not overlap")

    @property
    def stride(self) -> int:
        """Tokens of the stream from one row's start to the next."""
        return self.seq_len - 1 - self.overlap

    def plan(self, counts: list[int]) -> tuple[int, int, list[tuple[int, int, int, int]]]:
        """(rows, tokens dropped at the tail, [(first row, rows, start, stop) per shard]) of blocks' token counts."""
        return _core.plan(counts, self.seq_len, self.overlap, self.rows_per_shard)

    def in_stream(self, lengths: np.ndarray) -> np.ndarray:
        """How many ids of the stream each document takes, from its own number of tokens."""
        return np.full(len(lengths), self.stride, np.int64) if self.layout == "documents" else lengths.astype(np.int64)


@dataclass(frozen=True)
class Job:
    """All that a worker needs to encode a block or cut a shard, wherever it runs. Small: it is sent with every task."""

    source: TextSource
    tokenizer: Path
    tokenizer_sha256: str
    vocab_size: int
    bos: int
    eos: int
    pad: int | None
    out_dir: Path
    name: str
    shape: Shape
    batch_size: int
    slow: bool  # encode by the tokenizers library
    deduplicate: bool
    identity: str  # of text, tokenizer, shape and blocks: what a killed job left is gone on from where it is the same

    @property
    def part(self) -> Path:
        """Where the split lies until it is whole. Hidden, so that whoever reads the folder finds no half a split."""
        return self.out_dir / f".part-{self.name}"

    @property
    def dtype(self) -> Any:
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    def packer(self, first_shard: int = 0) -> _core.Packer:
        return _core.Packer(
            self.part,
            self.name,
            bos=self.bos,
            vocab_size=self.vocab_size,
            seq_len=self.shape.seq_len,
            overlap=self.shape.overlap,
            rows_per_shard=self.shape.rows_per_shard,
            first_shard=first_shard,
        )


class Encoded(NamedTuple):
    """A block's part of the stream, and of each of its documents: tokens with <eos>, bytes of text, hash.

    ids: [tokens], or the file that holds them; lengths: uint32 [documents]; sizes: int64 [documents]; digests: 16
    bytes a document where the job removes duplicates, else none.
    """

    ids: np.ndarray | Path
    lengths: np.ndarray
    sizes: np.ndarray
    digests: bytes


_known: dict[tuple[Path, str], Tokenizer] = {}  # the last one that this process used


def know(folder: Path, encoder: Tokenizer) -> None:
    """Spares this process from loading a tokenizer that it has: its encoders hold what they have learnt of words."""
    _known.clear()
    _known[folder, encoder.sha256] = encoder


def loaded(folder: Path, sha256: str) -> Tokenizer:
    """Once per worker process. Another machine may see another folder under the same name: the hash says so."""
    if found := _known.get((folder, sha256)):
        return found
    encoder = tokenizer.load(folder)
    if encoder.sha256 != sha256:
        raise TokensError(f"{folder}: a worker finds another tokenizer there than the job began with")
    know(folder, encoder)
    return encoder


def encode_block(block: Block, *, job: Job) -> Encoded:
    """Reads and encodes one block; runs in any process."""
    lengths, sizes, digests = [np.empty(0, np.uint32)], [np.empty(0, np.int64)], []
    ids: list[np.ndarray] = []
    spool: Path | None = None
    try:
        for part in _pieces(block, job):
            assert isinstance(part.ids, np.ndarray)
            ids.append(part.ids)
            lengths.append(part.lengths)
            sizes.append(part.sizes)
            digests.append(part.digests)
            if sum(map(len, ids)) > SPOOL_TOKENS:
                spool = spool or job.part / f"spool-{secrets.token_hex(8)}"
                append(spool, ids)
                ids = []
        if spool:
            append(spool, ids)
    except BaseException:
        if spool:
            spool.unlink(missing_ok=True)
        raise
    joined = spool or (ids[0] if len(ids) == 1 else np.concatenate([np.empty(0, job.dtype), *ids]))
    return Encoded(joined, np.concatenate(lengths), np.concatenate(sizes), b"".join(digests))


def append(path: Path, arrays: list[np.ndarray]) -> None:
    with path.open("ab") as file:
        for array in arrays:
            file.write(np.ascontiguousarray(array).data)


def _pieces(block: Block, job: Job) -> Iterator[Encoded]:
    encoder = loaded(job.tokenizer, job.tokenizer_sha256)
    for texts in job.source.pieces(block):
        if job.slow:
            ids = encoder.reference_stream(texts, job.batch_size)
            lengths = _lengths(ids, texts, encoder)
        else:
            ids, lengths = encoder.stream_and_lengths(texts)
        digests = _core.text_hashes(texts.data, texts.starts, texts.stops) if job.deduplicate else b""
        if job.shape.layout == "documents":
            assert job.pad is not None
            ids = _padded(ids, lengths, job.shape.stride, job.pad)
        yield Encoded(ids, lengths, texts.stops - texts.starts, digests)


def _lengths(ids: np.ndarray, texts: Texts, encoder: Tokenizer) -> np.ndarray:
    """How many tokens each document has, <eos> included: uint32 [documents]."""
    ends = np.flatnonzero(ids == encoder.special.eos)
    if len(ends) != texts.num_documents:  # a tokenizer of someone else's that makes its <eos> from text as well
        each = (encoder.stream(texts.only(slice(number, number + 1))) for number in range(texts.num_documents))
        return np.fromiter((len(one) for one in each), np.uint32, texts.num_documents)
    return np.diff(ends, prepend=-1).astype(np.uint32)


def _padded(ids: np.ndarray, lengths: np.ndarray, content: int, pad: int) -> np.ndarray:
    """Each document's first `content` ids, and padding where it has fewer: [documents * content]."""
    rows_DT = np.full((len(lengths), content), pad, ids.dtype)
    ends = np.cumsum(lengths, dtype=np.int64)
    inside_DT = np.arange(content)[None] < np.minimum(lengths, content)[:, None]
    places_DT = (ends - lengths)[:, None] + np.arange(content)[None]
    rows_DT[inside_DT] = ids[places_DT[inside_DT]]
    return rows_DT.reshape(-1)


def stream_of(
    ids: np.ndarray, spans: np.ndarray, kept: np.ndarray | None, start: int, stop: int
) -> Iterator[np.ndarray]:
    """The ids [start, stop) of what is left of a block's stream when only `kept` documents remain, in slices.

    ids: [tokens], `spans` of them each document's; kept: bool [documents], None for all.
    """
    if kept is None:
        for first in range(start, min(stop, len(ids)), SLICE_TOKENS):
            yield ids[first : min(first + SLICE_TOKENS, stop)]
        return
    edges = np.concatenate([[0], np.cumsum(spans)])
    document, position = 0, 0  # position: in what is left
    while document < len(spans) and position < stop:
        after = max(document + 1, int(np.searchsorted(edges, edges[document] + SLICE_TOKENS, "right")) - 1)
        mask = np.repeat(kept[document:after], spans[document:after])
        left = ids[edges[document] : edges[after]][mask]
        yield left[max(start - position, 0) : max(stop - position, 0)]
        document, position = after, position + len(left)


def must_be_slow(texts: Texts, encoder: Tokenizer) -> bool:
    """Whether the tokenizer's library must encode, which is said. Both encode a sample of the job's own documents."""
    if encoder.slow_because:
        print(f"note: not encoded by our own encoder, so slowly: {encoder.slow_because}", file=sys.stderr)
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
