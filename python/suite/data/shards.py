"""Token folders: one manifest, a split per entry, shards of rows.

A split is sealed when its entry stands in manifest.json, which is replaced whole once that split's shards are
written. Reading checks every shard against its SHA-256 before a single token is used.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from suite import _core
from suite.base.errors import SealError, TokensError
from suite.base.store import FORMAT, MANIFEST, check_format, read_json, write_json
from suite.data.tokenizer import Tokenizer

KIND = "tokens"


@dataclass(frozen=True)
class Shard:
    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Split:
    """One split's entry. Counts are of documents, tokens (<eos> included, <bos> and padding not) and rows.

    `dropped_tokens` are in no row: the stream's tail, or what did not fit into the rows of documents. `index` is the
    file with each document's number of tokens, None where nobody wrote one.
    """

    source: str
    slice: str
    fingerprint: str
    documents: int
    text_bytes: int
    tokens: int
    rows: int
    dropped_tokens: int
    shards: tuple[Shard, ...]
    duplicates: int = 0
    index: Shard | None = None


@dataclass(frozen=True)
class Tokens:
    """A token folder as its manifest describes it."""

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

    @property
    def dtype(self) -> Any:
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

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
            "dtype": np.dtype(self.dtype).name,
            "seq_len": self.seq_len,
            "overlap": self.overlap,
            "rows_per_shard": self.rows_per_shard,
            "layout": self.layout,
        }

    def write(self) -> None:
        write_json(
            self.folder / MANIFEST,
            {**self.header(), "splits": {name: asdict(split) for name, split in sorted(self.splits.items())}},
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
        """All rows of a split, [rows, seq_len] of uint16 or uint32, every shard checked against its hash."""
        split = self.split(name)
        if sum(shard.rows for shard in split.shards) != split.rows:
            raise TokensError(
                f"{self.folder / MANIFEST}: split {name!r} has {split.rows} rows, its shards do not add up"
            )
        wide = self.vocab_size > 1 << 16
        rows = np.empty((split.rows, self.seq_len), np.uint32 if wide else np.uint16)
        first = 0
        for shard in split.shards:
            path = self.folder / shard.name
            if not path.is_file():
                raise TokensError(f"{path}: missing, though the manifest lists it; tokenize again")
            try:
                data = _core.read_shard(path, self.seq_len, wide, shard.sha256)
            except (ValueError, OSError) as error:
                raise TokensError(str(error)) from None
            part = np.frombuffer(data, rows.dtype).reshape(-1, self.seq_len)
            if len(part) != shard.rows:
                raise TokensError(f"{path}: {len(part)} rows, the manifest says {shard.rows}")
            if part.size and int(part.max()) >= self.vocab_size:
                raise TokensError(f"{path}: token id {int(part.max())} is beyond the vocabulary of {self.vocab_size}")
            rows[first : first + len(part)] = part
            first += len(part)
        return rows

    def lengths(self, name: str) -> np.ndarray:
        """How many tokens each document of a split has, <eos> included: uint32 [documents], in corpus order.

        Raises TokensError where there is no index, or it is damaged.
        """
        import pyarrow
        import pyarrow.parquet as pq

        index = self.split(name).index
        if index is None:
            raise TokensError(f"{self.folder}: split {name!r} has no index of its documents; tokenize it again")
        path = self.folder / index.name
        if not path.is_file():
            raise TokensError(f"{path}: missing, though the manifest lists it; tokenize again")
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != index.sha256:
            raise TokensError(f"{path}: its SHA-256 is not the manifest's: damaged or replaced; tokenize again")
        return pq.read_table(pyarrow.py_buffer(data))["tokens"].to_numpy()

    def documents(self, name: str) -> list[np.ndarray]:
        """The whole documents of a split, each its ids with <eos>: the rows' stream put together and cut at <eos>.

        What follows the last whole document is left out, because its end was dropped with the tail. Where rows are
        documents, each is its row's ids, which end without <eos> where the document was cut.
        """
        rows = self.rows(name)
        if not len(rows):
            return []
        if self.layout == "documents":
            return [row[1:][row[1:] != self.pad] for row in rows]
        stream = np.concatenate([rows[:-1, 1 : self.seq_len - self.overlap].reshape(-1), rows[-1, 1:]])
        ends = np.flatnonzero(stream == self.eos) + 1
        return np.split(stream[: ends[-1]], ends[:-1]) if len(ends) else []


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
        )
    except SealError as error:
        raise TokensError(str(error)) from None
    except (KeyError, TypeError, AttributeError) as error:
        raise TokensError(f"{path}: not a manifest of tokens ({type(error).__name__}: {error})") from None


def _split(entry: dict[str, Any]) -> Split:
    index = entry.get("index")
    files = {"shards": tuple(Shard(**one) for one in entry["shards"]), "index": Shard(**index) if index else None}
    return Split(**{**entry, **files})
