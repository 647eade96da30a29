"""Several sources as one, and parts of a source by hash: `train@hash[:0.5%]`.

Which documents belong to a part is decided by each document alone, from the SHA-256 of its UTF-8, so no split into
blocks, no order and no neighbour changes it, and anyone can compute it again:

    first, second = struct.unpack(">2Q", hashlib.sha256(text.encode()).digest()[:16])
    first / 2**64 < 0.005     # in train@hash[:0.5%]; equal documents fall on the same side, so none straddles
    second / 2**64 < 0.5      # in a source of weight 0.5; other bits, so that both may be asked of one document

The corpus is the members in their order, the copies of a member one after another. They are not interleaved: training
draws the rows of a split in an order of its own, over all of it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from suite import _core
from suite.base.errors import SourceError
from suite.data.conversations import Conversations
from suite.data.source import DEFAULT_BLOCK_BYTES, Source, TextSource, parse_split
from suite.data.template import Template, Templated
from suite.data.texts import Texts

WHOLE = 1 << 64

_PERCENT = r"\d{1,3}(?:\.\d{1,18})?"
_PART = re.compile(rf"(?P<split>[^@]+)@hash\[(?:(?P<start>{_PERCENT})%)?:(?:(?P<stop>{_PERCENT})%)?\]", re.ASCII)


class Hashes(NamedTuple):
    """An interval [start, stop) of 64 bits of documents' hashes."""

    start: int = 0
    stop: int = WHOLE

    def hold(self, bits: np.ndarray) -> np.ndarray:
        return (bits >= self.start) & (bits <= self.stop - 1)  # 2**64 itself is no 64-bit number


ALL = Hashes()


def parse(split: str) -> list[tuple[str, Hashes]]:
    """`train[:9]+test@hash[:1%]` -> parts, in order: what a source understands, and the hashes of it.

    Raises SourceError for anything else. Percentages may have decimals and are exact: h < ceil(2**64 * percent / 100).
    """
    parts: list[tuple[str, Hashes]] = []
    for text in split.split("+"):
        match = _PART.fullmatch(text.strip())
        if not match and "@" in text:
            raise SourceError(f"split {split!r}: expected something like train@hash[:0.5%] or train@hash[0.5%:]")
        inner, hashes = (
            (match["split"].strip(), _hashes(split, match["start"], match["stop"])) if match else (text, ALL)
        )
        parse_split(inner)
        if parts and parts[-1][1] == hashes:
            parts[-1] = (f"{parts[-1][0]}+{inner}", hashes)
        else:
            parts.append((inner, hashes))
    return parts


def _hashes(split: str, start: str | None, stop: str | None) -> Hashes:
    found = Hashes(*(math.ceil(WHOLE * Fraction(text) / 100) for text in (start or "0", stop or "100")))
    if not found.start < found.stop <= WHOLE:
        raise SourceError(f"split {split!r}: no hash lies from {start or 0}% to {stop or 100}%")
    return found


@dataclass(frozen=True)
class Member:
    """A source in a mixture. `weight` is how many times each document is read: 2.0 twice; 1.5 once, and half of them
    again; `hashes` are those that take part at all. `split` is as the user wrote it."""

    source: TextSource
    split: str
    weight: float = 1.0
    hashes: Hashes = ALL
    name: str = ""

    @property
    def copies(self) -> int:
        """How often the source is read, the last time perhaps a part of it."""
        return math.floor(self.weight) + (self._rest.stop > 0)

    @property
    def _rest(self) -> Hashes:
        return Hashes(0, int(self.weight % 1 * WHOLE))

    def chosen(self, texts: Texts, copy: int) -> Texts:
        """The documents that this copy of the source has."""
        part = copy == math.floor(self.weight)
        if not part and self.hashes == ALL:
            return texts
        bits = np.frombuffer(_core.text_hashes(*texts), ">u8").reshape(-1, 2)
        mask = self.hashes.hold(bits[:, 0])
        return texts.only(mask & self._rest.hold(bits[:, 1]) if part else mask)


class MemberBlock(NamedTuple):
    """A block of a member's source, in one of the member's copies."""

    member: int
    copy: int
    block: Any


@dataclass(frozen=True)
class Mixture:
    """The members' documents, member after member and copy after copy."""

    members: tuple[Member, ...]
    split: str

    @property
    def spec(self) -> str:
        return " + ".join(dict.fromkeys(member.source.spec for member in self.members))

    def blocks(self, block_bytes: int = DEFAULT_BLOCK_BYTES) -> list[Any]:
        """Raises SourceError if any member that is read has no documents."""
        blocks: list[Any] = []
        for number, member in enumerate(self.members):
            found = member.source.blocks(block_bytes) if member.copies else []
            blocks += [MemberBlock(number, copy, block) for copy in range(member.copies) for block in found]
        if not blocks:
            raise SourceError(f"{self.spec}: split {self.split!r} has no documents: every weight is 0")
        return blocks

    def pieces(self, block: Any) -> Iterator[Texts]:
        member = self.members[block.member]
        for texts in member.source.pieces(block.block):
            yield member.chosen(texts, block.copy)

    def head(self, block: Any) -> Texts:
        """Documents of the source, chosen or not: of a few the hash may choose none, and this is a sample of a kind."""
        return self.members[block.member].source.head(block.block)

    def fingerprint(self) -> str:
        parts = [[member.source.fingerprint(), member.weight, *member.hashes] for member in self.members]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def identity(self) -> str:
        """How the manifest names it: the members, what is read of each, and how often."""
        if len(self.members) == 1 and self.members[0].weight == 1:
            return self.members[0].source.identity()
        return "; ".join(
            (f"{member.name}: " if member.name else "")
            + member.source.identity()
            + (f" split={member.split}" if member.split != self.split else "")
            + f" weight={member.weight!r}"
            for member in self.members
        )


def opened(make: Callable[[str], TextSource], split: str) -> TextSource:
    """The documents of a split that may have parts by hash; `make` gives the source of one that has none."""
    parts = [Member(make(inner), split, hashes=hashes) for inner, hashes in parse(split)]
    whole = len(parts) == 1 and parts[0].hashes == ALL
    return parts[0].source if whole else Mixture(tuple(parts), split)


def text_source(
    spec: str,
    split: str = "train",
    *,
    feature: str = "text",
    template: str | None = None,
    separator: str | None = None,
    errors: str = "strict",
    config: str | None = None,
    chat: bool = False,
) -> TextSource:
    """One source, as the doors and configs describe it, of texts or, for a `chat`, of conversations.

    Raises SourceError for a split or template that is none.
    """
    joined = Template.parse(template) if template is not None else None

    def make(inner: str) -> TextSource:
        def column(name: str) -> Source:
            return Source(spec, name, inner, separator, errors, config=config)

        if chat:
            return Conversations(column("messages"))
        return Templated(joined, tuple(column(name) for name in joined.columns)) if joined else column(feature)

    return opened(make, split)


def weighed(source: TextSource, weight: float, name: str) -> list[Member]:
    """A source as members of a larger mixture, whose names and weights these are."""
    if isinstance(source, Mixture):
        return [Member(part.source, part.split, weight * part.weight, part.hashes, name) for part in source.members]
    return [Member(source, source.split, weight, ALL, name)]


def texts_of(source: TextSource) -> Iterator[Texts]:
    """All documents of a source."""
    for block in source.blocks():
        yield from source.pieces(block)


# Applies a picklable function to items, anywhere, and yields the results in any order.
MapAnywhere = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]


def num_bytes(source: TextSource, block_bytes: int, map_anywhere: MapAnywhere, advance: Callable[[float], None]) -> int:
    """Bytes of text in a source, by reading all of it; `advance` hears of megabytes."""
    total = 0
    for found in map_anywhere(functools.partial(_block_bytes, source=source), source.blocks(block_bytes)):
        total += found
        advance(found / 1e6)
    return total


def _block_bytes(block: Any, *, source: TextSource) -> int:
    return sum(texts.num_bytes for texts in source.pieces(block))


def weights_of(shares: Sequence[float], sizes: Sequence[int], max_epochs: float) -> list[float]:
    """The weights that give each source its share of the text, as large as they can be without one above
    `max_epochs`. `sizes` are in bytes, above 0; `shares` above 0."""
    scale = min(max_epochs * size / share for share, size in zip(shares, sizes, strict=True))
    return [min(max_epochs, scale * share / size) for share, size in zip(shares, sizes, strict=True)]
