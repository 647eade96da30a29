"""Token folders: one manifest, a split per entry, shards of rows.

A split is sealed when its entry stands in manifest.json, which is replaced whole once that split's shards are
written. Reading checks every shard against its SHA-256 before a single token is used, decodes it once per machine into
the cache (data/cache.py), and maps that: a process does not hold the tokens, and runs share them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from suite.base.errors import SealError, TokensError
from suite.base.store import FORMAT, MANIFEST, check_format, read_json, write_json
from suite.data import answers, cache, decode
from suite.data.answers import Answers
from suite.data.tokenizer import Tokenizer

KIND = "tokens"
COLUMN = "tokens"  # of the shards that we write
SHARD_FORMAT = 2  # of their bytes: 2 since pages are our own (rust/core/src/shard.rs); 1 is read as well
ROWS_AT_ONCE = 256  # put together to find documents
ELSEWHERE = "made elsewhere"  # the layout of what `suite seal` adopts


@dataclass(frozen=True)
class Shard:
    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class ChatEntry:
    """What a split of conversations has beside: the template, the file with the answers' places (data/answers.py), the
    tokens of answers in all, and the conversations left out because their rows had none."""

    template: str
    answers: Shard
    counted: int
    left_out: int


@dataclass(frozen=True)
class Split:
    """One split's entry. Counts are of documents, tokens (<eos> included, <bos> and padding not) and rows.

    `dropped_tokens` are in no row: the stream's tail, or what did not fit into the rows of documents. `index` is the
    file with each document's number of tokens, None where nobody wrote one. None is what nobody knows of
    rows made elsewhere.
    """

    source: str
    slice: str
    fingerprint: str
    documents: int | None
    text_bytes: int | None
    tokens: int | None
    rows: int
    dropped_tokens: int | None
    shards: tuple[Shard, ...]
    duplicates: int = 0
    index: Shard | None = None
    chat: ChatEntry | None = None  # of rows that are conversations

    @property
    def files(self) -> list[Shard]:
        """All files of the split, the shards first."""
        return [*self.shards, *([self.index] if self.index else []), *([self.chat.answers] if self.chat else [])]

    def entry(self) -> dict[str, Any]:
        """As the manifest has it."""
        return {key: value for key, value in asdict(self).items() if key != "chat" or value is not None}


@dataclass(frozen=True)
class Tokens:
    """A token folder as its manifest describes it.

    `layout` says what its rows are: cut from the stream of all documents, each a document, or as someone else made them
    (`suite seal`), whose overlap and rows_per_shard mean nothing and whose column has any name.
    """

    folder: Path
    tokenizer_sha256: str
    vocab_size: int
    bos: int
    eos: int
    pad: int | None
    seq_len: int
    overlap: int
    rows_per_shard: int
    layout: str
    splits: dict[str, Split]
    column: str = COLUMN

    def header(self) -> dict[str, Any]:
        """What all splits of a folder share."""
        return {
            "format": FORMAT,
            "kind": KIND,
            "tokenizer": {
                "sha256": self.tokenizer_sha256,
                "vocab_size": self.vocab_size,
                "bos": self.bos,
                "eos": self.eos,
                "pad": self.pad,
            },
            "dtype": self.dtype.name,
            "seq_len": self.seq_len,
            "overlap": self.overlap,
            "rows_per_shard": self.rows_per_shard,
            "layout": self.layout,
            "column": self.column,
        }

    @property
    def dtype(self) -> np.dtype:
        """Of ids in memory, which shards and manifest follow."""
        return np.dtype(np.uint32 if self.vocab_size > 1 << 16 else np.uint16)

    def write(self) -> None:
        write_json(
            self.folder / MANIFEST,
            {**self.header(), "splits": {name: split.entry() for name, split in sorted(self.splits.items())}},
        )

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise TokensError(
                f"{self.folder}: no split {name!r} in its manifest; it has {', '.join(self.splits) or 'none'}"
            )
        return self.splits[name]

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        if tokenizer.sha256 != self.tokenizer_sha256:
            raise TokensError(
                f"{self.folder}: made with another tokenizer than {tokenizer.folder} (SHA-256 "
                f"{self.tokenizer_sha256[:12]}, not {tokenizer.sha256[:12]}); name the tokenizer that made them, "
                "or tokenize again"
            )

    def rows(self, name: str) -> np.ndarray:
        """All rows of a split, [rows, seq_len] of uint16 or uint32: a read-only map of the cache.

        Raises TokensError for a shard that is missing or differs from its hash, for one that holds anything but such
        rows, and when there is no room to decode them.
        """
        split = self.split(name)
        if sum(shard.rows for shard in split.shards) != split.rows:
            raise TokensError(
                f"{self.folder / MANIFEST}: split {name!r} has {split.rows} rows, its shards do not add up"
            )
        for shard in split.shards:
            if not (self.folder / shard.name).is_file():
                raise TokensError(f"{self.folder / shard.name}: missing, though the manifest lists it; tokenize again")
        names, by_name = [shard.name for shard in split.shards], {shard.name: shard for shard in split.shards}

        def fill(rows: np.ndarray) -> None:
            parts = np.split(rows, np.cumsum([shard.rows for shard in split.shards])[:-1])
            decode.in_threads(self._decode, zip(split.shards, parts, strict=True))
            cache.check_once(self.folder, names, lambda left: None)  # they are checked

        def check(left: Sequence[str]) -> None:
            decode.in_threads(decode.check, [(self.folder / name, by_name[name].sha256) for name in left])

        shape = (split.rows, self.seq_len)
        rows = cache.mapped(self._key(split), shape, self.dtype, f"{self.folder}: split {name!r}", fill)
        cache.check_once(self.folder, names, check)
        return rows

    def _key(self, split: Split) -> str:
        """A hash of all that decoded rows depend on, and of nothing else: not of where they lie."""
        shards = [(shard.sha256, shard.rows) for shard in split.shards]
        content = [1, self.layout, self.column, self.dtype.name, self.vocab_size, self.seq_len, shards]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _decode(self, shard: Shard, rows: np.ndarray) -> None:
        path = self.folder / shard.name
        if self.layout == ELSEWHERE:
            decode.others(path, shard.sha256, self.vocab_size, rows, self.column)
        else:
            decode.ours(path, shard.sha256, self.vocab_size, rows)

    def lengths(self, name: str) -> np.ndarray:
        """How many tokens each document of a split has, <eos> included: uint32 [documents], in corpus order.

        Raises TokensError where there is no index, or it is damaged.
        """
        import pyarrow
        import pyarrow.parquet as pq

        index = self.split(name).index
        if index is None:
            why = "its rows were made elsewhere" if self.layout == "made elsewhere" else "tokenize it again"
            raise TokensError(f"{self.folder}: split {name!r} has no index of its documents: {why}")
        path = self.folder / index.name
        if not path.is_file():
            raise TokensError(f"{path}: missing, though the manifest lists it; tokenize again")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != index.sha256:
            raise TokensError(f"{path}: its SHA-256 is not the manifest's: damaged or replaced; tokenize again")
        return pq.read_table(pyarrow.py_buffer(data))["tokens"].to_numpy()

    def answers(self, name: str) -> Answers:
        """Where the answers stand in the rows of a split of conversations. Raises TokensError where there are none."""
        split = self.split(name)
        if split.chat is None:
            raise TokensError(
                f"{self.folder}: split {name!r} holds no conversations; `suite tokenize --chat` makes rows of them"
            )
        file = split.chat.answers
        return answers.read(self.folder / file.name, file.sha256, split.rows, self.seq_len)

    def documents(self, name: str) -> list[np.ndarray]:
        """All that `each_document` yields."""
        return list(self.each_document(name))

    def each_document(self, name: str) -> Iterator[np.ndarray]:
        """The whole documents of a split, each its ids with <eos>: the rows' stream put together and cut at <eos>.

        What follows the last whole document is left out, because its end was dropped with the tail. Where rows are
        documents, each is its row's ids, which end without <eos> where the document was cut. Of rows made elsewhere
        nobody knows how they follow each other: there a document is what stands between two <eos> of one row.
        """
        rows = self.rows(name)
        if self.layout == "documents":
            yield from (row[1:][row[1:] != self.pad] for row in rows)
            return
        if self.layout == ELSEWHERE:
            for row in rows:
                ends = np.flatnonzero(row == self.eos) + 1
                yield from (row[a:b] for a, b in pairwise(ends) if b - a > 1)
            return
        begun: list[np.ndarray] = []  # the document that goes on
        for first in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[first : first + ROWS_AT_ONCE]
            stream = part[:, 1 : self.seq_len - self.overlap].reshape(-1)
            if first + len(part) == len(rows):
                stream = np.concatenate([stream, part[-1, self.seq_len - self.overlap :]])
            *whole, rest = np.split(stream, np.flatnonzero(stream == self.eos) + 1)
            if whole:
                yield np.concatenate([*begun, whole[0]])
                yield from whole[1:]
                begun = []
            begun.append(rest)


def read(folder: Path) -> Tokens:
    """The manifest of a token folder. Raises TokensError when there is none, or it is not one."""
    if not folder.is_dir():
        raise TokensError(f"{folder}: no such folder of tokens; `suite tokenize --out-dir {folder}` makes it")
    path = folder / MANIFEST
    if not path.is_file():
        raise TokensError(
            f"{folder}: not sealed (no {MANIFEST}): the job that writes it is still running, or died; "
            "run it again to finish it"
        )
    try:
        content = read_json(path)
        check_format(path, content, KIND)
        special = content["tokenizer"]
        return Tokens(
            folder=folder,
            tokenizer_sha256=special["sha256"],
            vocab_size=special["vocab_size"],
            bos=special["bos"],
            eos=special["eos"],
            pad=special["pad"],
            seq_len=content["seq_len"],
            overlap=content["overlap"],
            rows_per_shard=content["rows_per_shard"],
            layout=content.get("layout", "stream"),
            splits={name: _split(entry) for name, entry in content["splits"].items()},
            column=content.get("column", COLUMN),
        )
    except SealError as error:
        raise TokensError(str(error)) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise TokensError(f"{path}: not a manifest of tokens ({type(error).__name__}: {error})") from None


def _split(entry: dict[str, Any]) -> Split:
    index = entry.get("index")
    files = {"shards": tuple(Shard(**one) for one in entry["shards"]), "index": Shard(**index) if index else None}
    if chat := entry.get("chat"):
        files["chat"] = ChatEntry(**{**chat, "answers": Shard(**chat["answers"])})
    return Split(**{**entry, **files})
