"""The story grammar, seen from Python: its probabilities are exact, its text is pinned, its English agrees."""

from __future__ import annotations

import hashlib
import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.data import stories
from suite.data.stories import DRAWN, KINDS, StoriesSpec

SPEC = StoriesSpec(count=20_000, seed=11)


@pytest.fixture(scope="module")
def train() -> list[str]:
    return stories.read(SPEC, "train", 0, SPEC.count)


@pytest.fixture(scope="module")
def parsed(train: list[str]) -> list[list[stories.Span]]:
    return [stories.spans(text) for text in train]


def test_spans_tile_every_story(train, parsed):
    for text, spans in zip(train, parsed, strict=True):
        assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
        assert spans[-1].end == len(text)
        assert all(span.end > span.start for span in spans)
        assert all((span.nats > 0) == (span.kind in DRAWN) for span in spans)


def test_mean_surprisal_is_the_entropy_in_total_and_by_kind(train, parsed):
    entropy = stories.entropy()
    assert tuple(entropy.nats_by_kind) == tuple(entropy.characters_by_kind) == KINDS
    nats_RK = np.zeros((len(train), len(KINDS)))
    for row, spans in enumerate(parsed):
        for span in spans:
            nats_RK[row, KINDS.index(span.kind)] += span.nats
    by_kind = [entropy.nats_by_kind[kind] for kind in KINDS]
    for nats_R, expected in [*zip(nats_RK.T, by_kind, strict=True), (nats_RK.sum(1), entropy.nats)]:
        standard_error = nats_R.std() / math.sqrt(len(train))
        assert abs(nats_R.mean() - expected) <= 3 * standard_error + 1e-9
    assert stories.nats(train[0]) == pytest.approx(nats_RK[0].sum(), abs=1e-9)
    assert 40 < entropy.nats < 60
    assert math.isclose(sum(by_kind), entropy.nats)


def test_lengths_are_as_surveyed(train):
    entropy = stories.entropy()
    lengths = np.array([len(text) for text in train])
    assert abs(lengths.mean() - entropy.mean_characters) <= 3 * lengths.std() / math.sqrt(len(lengths))
    assert lengths.max() <= entropy.max_characters <= 700


@given(cuts=st.lists(st.integers(0, 300), max_size=6), split=st.sampled_from(["train", "validation", "test", "ü"]))
def test_stories_do_not_depend_on_how_ranges_are_cut(cuts, split):
    cuts = [0, *sorted(cuts), 300]
    pieces = [stories.read(SPEC, split, a, b) for a, b in itertools.pairwise(cuts)]
    assert list(itertools.chain(*pieces)) == stories.read(SPEC, split, 0, 300)


def test_splits_and_seeds_share_no_story(train):
    others = [(SPEC, "validation"), (SPEC, "test"), (StoriesSpec(20_000, seed=12), "train")]
    texts = [train, *(stories.read(spec, split, 0, SPEC.count) for spec, split in others)]
    assert len(set().union(*texts)) == sum(map(len, texts))


def test_the_text_never_changes_by_accident():
    assert stories.GRAMMAR_VERSION == 1, "a new version needs a new hash"
    texts = stories.read(StoriesSpec(count=1000), "train", 0, 1000)
    assert (
        hashlib.sha256("\n".join(texts).encode()).hexdigest()
        == "9c43e08e3d86957a9ace200f0a49aa60ef6ac20d86dc61de7cadb23e822486ca"
    )


@pytest.mark.parametrize("kind", sorted(set(KINDS) - DRAWN - {"text"}))
def test_a_wrong_word_is_no_story(kind, train, parsed):
    """Whatever is determined may not be swapped for what another story has in its place."""
    pairs = [
        (text, span) for text, spans in zip(train[:300], parsed, strict=False) for span in spans if span.kind == kind
    ]
    words = sorted({text[span.start : span.end] for text, span in pairs})
    for text, span in pairs[:50]:
        for word in words[:20]:
            if word != text[span.start : span.end]:
                with pytest.raises(ValueError, match="not a story of this grammar: at byte"):
                    stories.nats(text[: span.start] + word + text[span.end :])


def test_a_refusal_names_the_place_and_what_was_expected(train):
    with pytest.raises(ValueError, match=r"at byte 0: expected one of .*Long ago.* \(plot\), found \"It was"):
        stories.spans("It was a dark night.")
    with pytest.raises(ValueError, match="expected the end of the story"):
        stories.spans(train[0] + " And then")
    with pytest.raises(ValueError, match=r"expected one of .*Long ago.*, found \"\""):
        stories.spans("")


def test_the_english_agrees(train):
    text = "\n".join(train)
    assert text.isascii()
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text, re.IGNORECASE)
    assert not re.search(r"\bone [a-z]+s were|\bone [a-z]+ were|\b(two|three|four|five) [a-z]+ was", text)
    assert not re.search(r"[.] [a-z]|  |[ ][.,:]|[^.\"]$", text, re.MULTILINE)
    for story in train:
        role = re.search(r"\ban? (?:old )?([a-z]+) (?:named|who)", story)
        assert role
        she = {"girl", "queen", "witch", "lady", "princess", "woman"}
        it = {"robot", "dragon", "rabbit", "owl"}
        pronoun = "she" if role[1] in she else "it" if role[1] in it else "he"
        assert set(re.findall(r"\b(he|she|it) ", story.replace("wrote it", "").lower())) == {pronoun}


@pytest.mark.parametrize(
    "text, spec",
    [
        ("stories:20000", StoriesSpec(20_000)),
        ("stories:20k", StoriesSpec(20_000)),
        ("stories:2M?seed=7", StoriesSpec(2_000_000, 7)),
        ("stories:1_500?seed=0", StoriesSpec(1_500)),
        (f"stories:1?seed={2**64 - 1}", StoriesSpec(1, 2**64 - 1)),
    ],
)
def test_spec(text, spec):
    assert StoriesSpec.parse(text) == spec == StoriesSpec.parse(str(spec))


@pytest.mark.parametrize(
    "text",
    [
        *("stories", "stories:", "stories:0", "stories:-1", "stories:1.5k", "stories:20K", "stories:1_", "stories:9 "),
        *("stories:9?seed=", "stories:9?sed=1", "stories:9?seed=-1", f"stories:9?seed={2**64}", "stories:९"),
    ],
)
def test_spec_refuses(text):
    with pytest.raises(ValueError, match=r"is not stories:N or stories:N\?seed=S"):
        StoriesSpec.parse(text)
