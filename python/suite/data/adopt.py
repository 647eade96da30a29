"""Token parquet made elsewhere becomes a token folder: checked, hashed and sealed where it lies, its files untouched.

Rows are taken as they are. How they were cut, from which documents and with what overlap, nobody says, so the manifest
says null, and readers (data/shards.py) take nothing for granted across the edge of a row.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from suite.base.errors import TokensError
from suite.base.store import MANIFEST, locked, sha256_of
from suite.data import decode, lists, shards
from suite.data.shards import ELSEWHERE, Shard, Split, Tokens
from suite.data.tokenizer import Tokenizer

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
# load_dataset's rules: SPLIT-00000-of-00003 first, else a word in the file's name, else one in a folder's.
_NUMBERED = re.compile(r"(?P<split>\w+(?:\.\w+)*)-\d{5}-of-\d{5}.*")
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}


class Adopted(NamedTuple):
    tokens: Tokens
    without_documents: list[str]  # splits with no document that stands whole in a row


class _Checked(NamedTuple):
    shard: Shard
    has_document: bool


def adopt(
    folder: Path,
    column: str,
    encoder: Tokenizer,
    globs: Mapping[str, str],
    on_file: Callable[[int], None] = lambda num_files: None,
) -> Adopted:
    """Seals the folder's parquet files as splits: by their names, or by `globs`, split -> pattern under the folder.

    Raises TokensError for files that are no such rows, naming file and row, for names that say no split, and for a
    folder that `suite tokenize` made. Nothing is written before all is checked. `on_file` hears how many there are.
    """
    if not folder.is_dir():
        raise TokensError(f"{folder}: no such folder")
    by_split = _globbed(folder, globs) if globs else split_names(folder)
    files = sorted(file for one in by_split.values() for file in one)
    with locked(folder):
        if (folder / MANIFEST).exists() and shards.read(folder).layout != ELSEWHERE:
            raise TokensError(f"{folder}: made and sealed by `suite tokenize`; there is nothing to adopt")
        seq_len = _seq_len(files, column, encoder.vocab_size)

        def check(path: Path) -> _Checked:
            checked = _check(folder, path, column, seq_len, encoder)
            on_file(len(files))
            return checked

        checked = dict(zip(files, decode.in_threads(check, [(file,) for file in files]), strict=True))
        tokens = Tokens(
            folder=folder,
            tokenizer_sha256=encoder.sha256,
            vocab_size=encoder.vocab_size,
            bos=encoder.special.bos,
            eos=encoder.special.eos,
            pad=encoder.special.pad,
            seq_len=seq_len,
            overlap=0,
            rows_per_shard=0,
            splits={
                name: _split(column, tuple(checked[file].shard for file in files)) for name, files in by_split.items()
            },
            layout=ELSEWHERE,
            column=column,
        )
        encoder.copy_to(folder / "tokenizer")
        tokens.write()
    poor = [name for name, files in by_split.items() if not any(checked[file].has_document for file in files)]
    return Adopted(tokens, poor)


def split_names(folder: Path) -> dict[str, list[Path]]:
    """The folder's parquet files by split, each in the order of their paths, as load_dataset names them."""
    files = sorted(
        path
        for path in folder.rglob("*.parquet")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not files:
        raise TokensError(f"{folder}: no parquet files in it")
    by_split: dict[str, list[Path]] = {}
    numbered = any(_NUMBERED.fullmatch(path.stem) for path in files)
    for path in files:
        match = _NUMBERED.fullmatch(path.stem)
        name = match["split"] if match else None
        for part in () if numbered else (path.stem, *(parent.name for parent in path.relative_to(folder).parents)):
            words = re.findall(r"[a-z]+", part.lower())
            found = [split for split, known in _WORDS.items() if set(known) & set(words)]
            if found:
                name = found[0] if len(found) == 1 else None
                break
        if name is None:
            raise TokensError(
                f"{path}: its name says no split ('train-00000-of-00001.parquet' would); "
                f"name the files of each: --split 'train={path.relative_to(folder)}'"
            )
        by_split.setdefault(name, []).append(path)
    return dict(sorted(by_split.items()))


def _globbed(folder: Path, globs: Mapping[str, str]) -> dict[str, list[Path]]:
    by_split: dict[str, list[Path]] = {}
    taken: dict[Path, str] = {}
    for name, pattern in globs.items():
        if not _NAME.fullmatch(name):
            raise TokensError(f"split name {name!r}: letters, digits, '_', '-' and '.', a letter or digit first")
        try:
            files = sorted(path for path in folder.glob(pattern) if path.is_file())
        except (ValueError, NotImplementedError) as error:  # an empty pattern, or an absolute one
            raise TokensError(f"--split {name}={pattern}: {error}; a pattern under {folder}") from None
        if not files:
            raise TokensError(f"{folder}: no file matches {pattern!r} of split {name!r}")
        for path in files:
            if taken.setdefault(path, name) != name:
                raise TokensError(f"{path}: in two splits, {taken[path]!r} and {name!r}")
        by_split[name] = files
    return by_split


def _seq_len(files: list[Path], column: str, vocab_size: int) -> int:
    """The length of the first row there is."""
    for path in files:
        for batch in lists.batches(path, column, None, vocab_size):
            if batch.shape[1] < 2:
                raise TokensError(f"{path}: column {column!r}: rows of 1 token; there is nothing to predict")
            return batch.shape[1]
    raise TokensError(f"{files[0].parent}: no rows in its {len(files)} files")


def _check(folder: Path, path: Path, column: str, seq_len: int, encoder: Tokenizer) -> _Checked:
    rows, has_document = 0, False
    for batch in lists.batches(path, column, seq_len, encoder.vocab_size):
        rows += len(batch)
        has_document = has_document or _has_document(batch == encoder.special.eos)
    shard = Shard(path.relative_to(folder).as_posix(), rows, path.stat().st_size, sha256_of(path))
    return _Checked(shard, has_document)


def _has_document(is_eos: np.ndarray) -> bool:
    """Whether in any row something stands between one <eos> and another."""
    begins = is_eos[:, :-1] & ~is_eos[:, 1:]
    last_eos = is_eos.shape[1] - 1 - is_eos[:, ::-1].argmax(1)
    return bool(np.any(begins.any(1) & (begins.argmax(1) < last_eos)))


def _split(column: str, files: tuple[Shard, ...]) -> Split:
    return Split(
        source=ELSEWHERE,
        slice="",
        fingerprint=hashlib.sha256("".join([column, *(shard.sha256 for shard in files)]).encode()).hexdigest(),
        documents=None,
        text_bytes=None,
        tokens=None,
        rows=sum(shard.rows for shard in files),
        dropped_tokens=None,
        shards=files,
    )
