"""The embedded corpus: stories from a grammar that knows the exact probability of every span it writes.

A model's loss on them has a known floor, in total and for each kind of span, so what is left to learn is measured,
not guessed. Story i of a seed and a split is a function of those three alone: any range, in any pieces, anywhere.
The grammar is rust/core/src/stories/grammar.rs; one core makes 1 GB of Python strings in about six seconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from suite import _core
from suite.data.texts import Texts

__all__ = [
    "DRAWN",
    "GRAMMAR_VERSION",
    "KINDS",
    "Entropy",
    "Span",
    "StoriesSpec",
    "entropy",
    "nats",
    "read",
    "spans",
    "texts",
]

GRAMMAR_VERSION: int = _core.GRAMMAR_VERSION

# Spans are drawn, and cost nats, or are determined by the text before them, and cost none.
KINDS = (
    "text",  # fixed words: the frame, learned first
    "plot",  # drawn: which way the story goes, sentence by sentence
    "role",  # drawn: who somebody is, "a girl", "an owl"
    "pronoun",  # he, she or it, from the role
    "name",  # drawn: the first mention of a name
    "name_copy",  # a later mention: induction over tens of tokens, with two names to keep apart
    "place",  # drawn: a home, a meeting place
    "place_recall",  # the home again, at the story's end
    "colour",  # drawn
    "colour_recall",  # the colour again, once in the next sentence and once near the end
    "object",  # drawn: what was found
    "object_recall",  # the object again, near the end
    "number",  # drawn: a number word
    "agreement",  # a or an, was or were, the plural's s: from the words beside it
    "sum",  # one number word plus another
    "detail",  # drawn: a food, an animal, a comparative
    "detail_recall",  # the same again, within a sentence or two
    "saying",  # drawn: two to four magic words
    "copy",  # the magic words verbatim, near the end
    "order",  # the biggest (smallest, oldest, ...) of three, from two comparisons
)
DRAWN = frozenset({"plot", "role", "name", "place", "colour", "object", "number", "detail", "saying"})

_SPEC = re.compile(
    r"stories:(?P<count>[1-9][0-9]{0,15}(?:_[0-9]{1,15})*)(?P<unit>[kM]?)(?:\?seed=(?P<seed>[0-9]+))?", re.ASCII
)
_UNITS = {"": 1, "k": 1_000, "M": 1_000_000}
_MAX_COUNT = 10**10  # 4 TB
_MAX_HELD_OUT = 2_000  # the mean loss of 2,000 stories is known to 0.2 nats of about 53 a story


@dataclass(frozen=True)
class StoriesSpec:
    """`count` stories to train on."""

    count: int
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> StoriesSpec:
        """From `stories:20000`, `stories:20k`, `stories:1_500?seed=3`. Raises ValueError for anything else."""
        match = _SPEC.fullmatch(text)
        seed = int(match["seed"] or 0) if match else 0
        if not match or seed >= 1 << 64:
            raise ValueError(
                f"{text!r} is not stories:N or stories:N?seed=S: N is at least 1 and may end in k or M "
                "(stories:20k), S is 0 to 2**64 - 1"
            )
        count = int(match["count"]) * _UNITS[match["unit"]]
        if count > _MAX_COUNT:
            raise ValueError(f"{text!r}: {_MAX_COUNT:,} stories are the most")
        return cls(count, seed)

    def __str__(self) -> str:
        """What `parse` reads back."""
        return f"stories:{self.count}?seed={self.seed}"

    def num_documents(self, split: str) -> int:
        """Stories in a split: `count` in train, as many but at most 2,000 in any other."""
        return self.count if split == "train" else min(self.count, _MAX_HELD_OUT)

    def fingerprint(self) -> str:
        """Names the text of every split for good."""
        return f"{self} grammar={GRAMMAR_VERSION}"


class Span(NamedTuple):
    """Characters [start, end) of a story. `nats` is -log p given all before them; exactly 0 if determined."""

    start: int
    end: int
    kind: str
    nats: float


@dataclass(frozen=True)
class Entropy:
    """Exact expectations per story, from the grammar itself; mappings have every kind of KINDS as key."""

    nats: float
    nats_by_kind: dict[str, float]
    mean_characters: float
    characters_by_kind: dict[str, float]
    max_characters: int  # no story is longer


def read(spec: StoriesSpec, split: str, start: int, stop: int) -> list[str]:
    """Stories [start, stop) of a split, which may have any name; it has 2**64 stories, whatever `spec.count` is."""
    return _core.stories(spec.seed, split, start, max(0, stop - start))


def texts(spec: StoriesSpec, split: str, start: int, stop: int) -> Texts:
    """The same stories as `read`, without making strings of them."""
    data, edges = _core.story_texts(spec.seed, split, start, max(0, stop - start))
    return Texts.cut(data, np.frombuffer(edges, np.int64))


def spans(text: str) -> list[Span]:
    """The spans of a story, which tile it; neighbours differ in kind.

    Raises ValueError, with the place and what was expected there, for a text that the grammar cannot have written.
    """
    return [Span(*span) for span in _core.story_spans(text)]


def nats(text: str) -> float:
    """-log p of a story. Raises ValueError for a text that the grammar cannot have written."""
    return sum(span.nats for span in spans(text))


def entropy() -> Entropy:
    """What a perfect model pays per story, in total and by kind."""
    return Entropy(**_core.story_entropy())
