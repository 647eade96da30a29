"""Where text comes from: a spec becomes numbered blocks, and a block becomes documents.

A spec is `stories:20000?seed=1`, a file, or a folder of .parquet, .jsonl or .txt files. Blocks are cut by the input
alone (row groups, byte ranges that end where documents end), never by the number of workers, and a block is read
from its descriptor by whoever gets it: text does not travel.

A document is a row of the text column, a line's field in jsonl, a whole file in txt (or what lies between
separators). Splits and slices are those of the datasets library: `train`, `train[:10%]`, `train[5%:]+test[:100]`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from suite.base.errors import SourceError
from suite.base.store import sha256_of
from suite.data import formats
from suite.data.formats import Block
from suite.data.stories import StoriesSpec
from suite.data.texts import Texts

DEFAULT_BLOCK_BYTES = 8 << 20

# The words by which the datasets library knows a split in a file or folder name.
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}

_NUMBER = r"-?\d[\d_]{0,18}"
_SLICE = re.compile(
    rf"(?P<name>\w+)(\[((?P<start>{_NUMBER})(?P<start_pct>%)?)?:((?P<stop>{_NUMBER})(?P<stop_pct>%)?)?\])?", re.ASCII
)


@dataclass(frozen=True)
class Slice:
    """One part of a split expression; `start` and `stop` count documents, or percent of them."""

    split: str
    start: int | None
    stop: int | None
    percent: bool

    @property
    def whole(self) -> bool:
        return self.start is None and self.stop is None

    def bounds(self, documents: int) -> tuple[int, int]:
        """First and last-plus-one document, as the datasets library rounds and clips."""

        def absolute(value: int | None, default: int) -> int:
            if value is None:
                return default
            value = round(value * documents / 100) if self.percent else value
            return min(max(value + documents, 0) if value < 0 else value, documents)

        start, stop = absolute(self.start, 0), absolute(self.stop, documents)
        return start, max(start, stop)


def parse_split(text: str) -> list[Slice]:
    """`train[:10%]+test[5:]` -> slices. Raises SourceError for anything else."""
    slices = []
    for part in text.split("+"):
        match = _SLICE.fullmatch(part.strip())
        if not match or (match["start_pct"] and match["stop"] and not match["stop_pct"]) or (
            match["stop_pct"] and match["start"] and not match["start_pct"]
        ):  # fmt: skip
            raise SourceError(f"split {text!r}: expected something like train, train[:10%], train[100:200] or a+b")
        start, stop = (int(match[side].strip("_")) if match[side] else None for side in ("start", "stop"))
        percent = bool(match["start_pct"] or match["stop_pct"])
        if percent and any(abs(value) > 100 for value in (start, stop) if value is not None):
            raise SourceError(f"split {text!r}: percentages lie between -100 and 100")
        slices.append(Slice(match["name"], start, stop, percent))
    return slices


class TextSource(Protocol):
    """What is tokenized: numbered blocks, cut by the input alone, and the documents of each, read anywhere."""

    @property
    def spec(self) -> str: ...

    @property
    def split(self) -> str: ...

    def blocks(self, block_bytes: int = DEFAULT_BLOCK_BYTES) -> list[Block]: ...

    def pieces(self, block: Block) -> Iterator[Texts]:
        """The documents of a block, some at a time: a block may be larger than what memory should hold."""
        ...

    def head(self, block: Block) -> Texts:
        """The first documents of a block, cheaply."""
        ...

    def fingerprint(self) -> str: ...

    def identity(self) -> str: ...


@dataclass(frozen=True)
class Source:
    """Text under one spec, split and feature. `errors` is for bytes that are not UTF-8: strict or replace."""

    spec: str
    feature: str = "text"
    split: str = "train"
    separator: str | None = None
    errors: str = "strict"
    config: str | None = None  # of a dataset that has several

    def __post_init__(self) -> None:
        if self.separator == "":
            raise SourceError("the separator is empty; give the text that stands between documents")

    def blocks(self, block_bytes: int = DEFAULT_BLOCK_BYTES) -> list[Block]:
        """The numbered blocks of the split, each about `block_bytes` of text. Raises SourceError if it is empty."""
        slices = parse_split(self.split)
        blocks: list[Block] = []
        if stories := _stories(self.spec):
            for part in slices:
                start, stop = part.bounds(stories.num_documents(part.split))
                blocks += formats.story_blocks(stories, part.split, start, stop, block_bytes)
        else:
            splits = self._files()
            for part in slices:
                if part.split not in splits:
                    raise SourceError(f"{self.spec}: no split {part.split!r}; it has {', '.join(sorted(splits))}")
                blocks += self._file_blocks(splits[part.split], part, block_bytes)
        if not blocks:
            hint = "; a txt file is one document unless a separator divides it" if self._is_one_text() else ""
            raise SourceError(f"{self.spec}: split {self.split!r} has no documents{hint}")
        return blocks

    def _is_one_text(self) -> bool:
        return self.separator is None and self.spec.endswith(".txt")

    def pieces(self, block: Block) -> Iterator[Texts]:
        """The documents of a block. Raises SourceError for a null, bytes that are not UTF-8, a missing column."""
        yield formats.read(block, self.feature, self.separator, self.errors)

    def head(self, block: Block) -> Texts:
        return next(self.pieces(formats.head(block)))

    def texts(self) -> Iterator[Texts]:
        for block in self.blocks():
            yield from self.pieces(block)

    def documents(self) -> Iterator[str]:
        for texts in self.texts():
            yield from texts.documents()

    def fingerprint(self) -> str:
        """SHA-256 of what is read: names and contents of the split's files, or the stories' parameters."""
        digest = hashlib.sha256(json.dumps([self.feature, self.split, self.separator, self.errors]).encode())
        if stories := _stories(self.spec):
            digest.update(stories.fingerprint().encode())
        else:
            splits = self._files()
            for name in sorted({part.split for part in parse_split(self.split)}):
                for path in splits.get(name, ()):
                    digest.update(f"{name}/{path.name}:{sha256_of(path)}\n".encode())
        return digest.hexdigest()

    def identity(self) -> str:
        """How the manifest names this source."""
        parts = [self.spec if _stories(self.spec) else str(Path(self.spec)), f"feature={self.feature}"]
        parts += [f"separator={self.separator!r}"] if self.separator is not None else []
        parts += [f"errors={self.errors}"] if self.errors != "strict" else []
        return " ".join(parts)

    def _files(self) -> dict[str, list[Path]]:
        """The split's data files, in the order of their names."""
        if self.config is not None:
            raise SourceError(f"{self.spec}: config {self.config!r}: files and folders have no configs")
        root = Path(self.spec)
        if root.is_file():
            _kind(root)
            return {"train": [root]}
        if not root.is_dir():
            raise SourceError(
                f"{self.spec}: no such file or folder; a source is stories:N, a file, or a folder of "
                ".parquet, .jsonl or .txt files"
            )
        files = [
            path
            for path in sorted(root.rglob("*"))
            if path.is_file()
            and path.suffix in formats.SUFFIXES
            and not any(part.startswith((".", "_")) for part in path.relative_to(root).parts)
        ]
        if not files:
            raise SourceError(f"{self.spec}: no {', '.join(formats.SUFFIXES)} files in this folder")
        kinds = {formats.SUFFIXES[path.suffix] for path in files}
        if len(kinds) > 1:
            raise SourceError(
                f"{self.spec}: mixes {' and '.join(sorted(kinds))} files; name one file, or split the folder"
            )
        splits: dict[str, list[Path]] = {}
        for path in files:
            splits.setdefault(_split_of(path.relative_to(root)), []).append(path)
        # As in the datasets library: files that name no split are a split only when none does.
        unnamed = splits.pop("", [])
        return splits or {"train": unnamed}

    def _file_blocks(self, files: list[Path], part: Slice, block_bytes: int) -> list[Block]:
        if part.whole:
            return [
                block
                for path in files
                for block in formats.blocks(path, None, block_bytes, self.separator, self.feature)
            ]
        counts = [formats.num_documents(path, self.separator) for path in files]
        start, stop = part.bounds(sum(counts))
        blocks: list[Block] = []
        first = 0
        for path, count in zip(files, counts, strict=True):
            inside = (max(start - first, 0), min(stop - first, count))
            if inside[0] < inside[1]:
                blocks += formats.blocks(path, inside, block_bytes, self.separator, self.feature)
            first += count
        return blocks


def _stories(spec: str) -> StoriesSpec | None:
    if not spec.startswith("stories:"):
        return None
    try:
        return StoriesSpec.parse(spec)
    except ValueError as error:
        raise SourceError(str(error)) from None


def _kind(path: Path) -> str:
    if path.suffix not in formats.SUFFIXES:
        raise SourceError(
            f"{path}: a {path.suffix or 'nameless'} file; text is read from {', '.join(formats.SUFFIXES)}"
        )
    return formats.SUFFIXES[path.suffix]


def _split_of(relative: Path) -> str:
    for split, words in _SPLIT_WORDS.items():
        if re.search(rf"(?:^|[-._ /\d])(?:{'|'.join(words)})(?:$|[-._ /\d])", relative.with_suffix("").as_posix()):
            return split
    return ""


def check_errors(errors: str) -> str:
    return check_choice("errors", errors, ("strict", "replace"))


def check_choice(flag: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise SourceError(f"--{flag} {value}: expected {' or '.join(choices)}")
    return value


def check_at_least(least: int, **flags: int) -> None:
    for name, value in flags.items():
        if value < least:
            raise SourceError(f"--{name.replace('_', '-')} is {value}; it must be {least} or more")
