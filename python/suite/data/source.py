"""Where text comes from: a spec becomes numbered blocks, and a block becomes documents.

A spec is `stories:20000?seed=1`, or a file, a folder or a glob of parquet, jsonl, csv or txt files, here or at a
store (docs/sources.md). Blocks are cut by the input alone (row groups, ranges of bytes, whole files), never by the
number of workers, and a block is read from its descriptor by whoever gets it: text does not travel.

A document is a row of the text column, a line's field in jsonl, a whole file in txt (or what lies between
separators). Splits and slices are those of the datasets library: `train`, `train[:10%]`, `train[5%:]+test[:100]`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from suite.base.errors import SourceError
from suite.data import formats, hub_files
from suite.data.access import checksum, in_threads, is_remote
from suite.data.block import DEFAULT_BLOCK_BYTES as DEFAULT_BLOCK_BYTES
from suite.data.block import Block
from suite.data.files import File, splits_of
from suite.data.stories import StoriesSpec
from suite.data.texts import Texts

HEAD_BYTES = 1 << 20  # of a document, where only the first ones are looked at

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
            splits = splits_of(self.spec, self.config)
            for part in slices:
                if part.split not in splits:
                    raise SourceError(f"{self.spec}: no split {part.split!r}; it has {', '.join(sorted(splits))}")
                blocks += self._file_blocks(splits[part.split], part, block_bytes)
        if not blocks:
            hint = "; a txt file is one document unless a separator divides it" if self._is_one_text() else ""
            raise SourceError(f"{self.spec}: split {self.split!r} has no documents{hint}")
        return blocks

    def _is_one_text(self) -> bool:
        return self.separator is None and ".txt" in self.spec

    def pieces(self, block: Block) -> Iterator[Texts]:
        """The documents of a block. Raises SourceError for a null, bytes that are not UTF-8, a missing column."""
        yield from formats.pieces(block, self.feature, self.separator, self.errors)

    def head(self, block: Block) -> Texts:
        """The first documents of a block, of a long one only the beginning."""
        return next(self.pieces(formats.head(block))).shortened(HEAD_BYTES)

    def texts(self) -> Iterator[Texts]:
        for block in self.blocks():
            yield from self.pieces(block)

    def documents(self) -> Iterator[str]:
        for texts in self.texts():
            yield from texts.documents()

    def fingerprint(self) -> str:
        """SHA-256 of what is read: names and checksums of the split's files, or the stories' parameters."""
        digest = hashlib.sha256(json.dumps([self.feature, self.split, self.separator, self.errors]).encode())
        if stories := _stories(self.spec):
            digest.update(stories.fingerprint().encode())
        else:
            splits = splits_of(self.spec, self.config)
            for name in sorted({part.split for part in parse_split(self.split)}):
                files = splits.get(name, [])
                checksums = in_threads(lambda file: file.checksum or checksum(file.url), files)
                for file, one in zip(files, checksums, strict=True):
                    digest.update(f"{name}/{PurePosixPath(file.url).name}:{one}\n".encode())
        return digest.hexdigest()

    def identity(self) -> str:
        """How the manifest names this source; of a dataset on the Hub with the commit, once it has been read."""
        as_typed = _stories(self.spec) or is_remote(self.spec)
        parts = [self.spec if as_typed else str(Path(self.spec))]
        commit = hub_files.commit(self.spec, self.config)
        parts += [f"commit={commit}"] if commit else []
        parts += [f"config={self.config}"] if self.config is not None else []
        parts += [f"feature={self.feature}"]
        parts += [f"separator={self.separator!r}"] if self.separator is not None else []
        parts += [f"errors={self.errors}"] if self.errors != "strict" else []
        return " ".join(parts)

    def _file_blocks(self, files: list[File], part: Slice, block_bytes: int) -> list[Block]:
        ranges = [None] * len(files) if part.whole else self._ranges(files, part)
        parts = [
            (file.url, inside)
            for file, inside in zip(files, ranges, strict=True)
            if inside is None or inside[0] < inside[1]
        ]
        found = in_threads(lambda one: formats.blocks(*one, block_bytes, self.separator, self.feature), parts)
        return [block for blocks in found for block in blocks]

    def _ranges(self, files: list[File], part: Slice) -> list[tuple[int, int]]:
        """The documents of each file that are in the slice. Nothing is counted behind train[:1000]."""
        if part.stop is not None and part.stop >= 0 and (part.start or 0) >= 0 and not part.percent:
            counts, left = [], part.stop
            for file in files:
                counts.append(min(formats.num_documents(file.url, self.separator, left), left) if left else 0)
                left -= counts[-1]
        else:
            counts = in_threads(lambda file: formats.num_documents(file.url, self.separator), files)
        start, stop = part.bounds(sum(counts))
        ranges, first = [], 0
        for count in counts:
            ranges.append((max(start - first, 0), min(stop - first, count)))
            first += count
        return ranges


def _stories(spec: str) -> StoriesSpec | None:
    if not spec.startswith("stories:"):
        return None
    try:
        return StoriesSpec.parse(spec)
    except ValueError as error:
        raise SourceError(str(error)) from None


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
