"""Our trainer makes the tokenizer of the tokenizers library: the same tokenizer.json for any text and vocabulary."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import odd_documents
from suite import _core
from suite.base.errors import TokenizerError
from suite.data import tokenizer
from suite.data.source import Source
from suite.data.texts import Texts

CODE_POINTS = [chr(point) for point in range(0, 0x110000, 7) if not 0xD800 <= point <= 0xDFFF]


def trained(documents: list[str], vocab_size: int) -> str:
    return tokenizer.train([Texts.of(documents)], vocab_size).library.backend.to_str()


def same(documents: list[str], *vocab_sizes: int) -> None:
    for vocab_size in vocab_sizes:
        assert (
            trained(documents, vocab_size) == tokenizer.reference_train(documents, vocab_size).library.backend.to_str()
        )


def sources(count: int) -> list[str]:
    """This project's own files, as a text that is neither made by a grammar nor prose."""
    root = Path(__file__).parents[1]
    return [path.read_text() for path in sorted([*root.glob("python/**/*.py"), *root.glob("docs/*.md")])][:count]


@pytest.mark.parametrize("vocab_size", [259, 260, 300, 1000, 100_000])
def test_on_texts_of_three_kinds(vocab_size):
    same(odd_documents(2000, seed=7), vocab_size)
    same(list(Source("stories:2000").documents()), vocab_size)
    same(sources(40), vocab_size)


def test_on_code_points_of_all_kinds():
    chunks = ["".join(CODE_POINTS[at : at + 50]) for at in range(0, len(CODE_POINTS), 50)]
    draw = random.Random(1)
    same([*chunks, *(" ".join(draw.choices(CODE_POINTS, k=30)) for _ in range(2000))], 700)


@pytest.mark.parametrize("text", ["a" * 3001, "ab" * 1000, "aab" * 1000, " " * 500 + "x", "é" * 999, "abcabd" * 300])
def test_on_words_that_repeat_themselves(text):
    same([text, text[:17], text[5:80]], 262, 5000)


# Few letters and short texts: nearly every choice is between equally common pairs, and the text soon runs out of them.
TINY = st.sampled_from(["a", "ab", "abc", "ab'", "a b", "aé"]).flatmap(
    lambda letters: st.lists(st.text(st.sampled_from(letters), max_size=60), min_size=1, max_size=40)
)


@settings(max_examples=400, deadline=None)
@given(TINY.filter(any), st.sampled_from([259, 261, 280, 350, 5000]))
def test_on_texts_made_of_ties(documents, vocab_size):
    same(documents, vocab_size)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(), min_size=1).filter(any), st.integers(259, 330))
def test_on_any_text(documents, vocab_size):
    same(documents, vocab_size)


def test_order_and_size_of_blocks_do_not_matter(corpus):
    source = Source(str(corpus))
    whole = tokenizer.train(source.texts(), 500).library.backend.to_str()
    for block_bytes in (1, 300, 5000):
        blocks = source.blocks(block_bytes)
        random.Random(block_bytes).shuffle(blocks)
        assert (
            tokenizer.train((texts for block in blocks for texts in source.pieces(block)), 500).library.backend.to_str()
            == whole
        )


def test_words_do_not_reach_into_the_next_document():
    merges = json.loads(trained(["ab", "cd", "ab", "cd"], 1000))["model"]["merges"]
    assert merges == [["a", "b"], ["c", "d"]]


def test_it_tells_how_far_it_is():
    heard: list[tuple[float, str]] = []
    tokenizer.train(Source("stories:300").texts(), 400, lambda megabytes, note: heard.append((megabytes, note)))
    assert heard[0][0] == pytest.approx(0.13, abs=0.02)
    assert [note for _, note in heard] == ["", "64 merges", "128 merges", "141 merges"]


@pytest.mark.parametrize(
    "train", [lambda texts, size: tokenizer.train([Texts.of(texts)], size), tokenizer.reference_train]
)
def test_what_cannot_be_trained_is_said(train):
    for documents, vocab_size, said in [
        (["text"], 258, "vocab_size is 258; 259 is the least: 256 bytes and <bos>, <eos>, <pad>"),
        (["text"], (1 << 24) + 1, "vocab_size is 16777217; 16,777,216 is the most"),
        ([], 300, "the corpus has no text to train a tokenizer on"),
        (["", ""], 300, "the corpus has no text to train a tokenizer on"),
    ]:
        with pytest.raises(TokenizerError, match=f"^{said}$"):
            train(documents, vocab_size)


def test_bytes_that_are_not_utf8_are_refused():
    with pytest.raises(ValueError, match="document 1 is not UTF-8"):
        tokenizer.train([Texts.of(["ä", "ö"])._replace(data=b"\xc3\xa4\xc3\x28")], 300)


def test_ctrl_c_is_heard_within_a_block():
    words = _core.WordCounts()
    text = Texts.of([" x" * (48 << 20) + " end" * 9])

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGPROF, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_PROF, 0.001)  # long before the end of the first of six slices
            words.add(*text)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    trainer = _core.Trainer(words, list(range(256)), 300)
    assert trainer.merge(9) == 1, "the words at the end were still counted"
    assert trainer.merges() == [(ord(" "), ord("x"))]
