"""Our encoder gives the ids of the tokenizers library: on every code point, on text made to trip it, on any text."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import unicode_classes
from conftest import call, odd_documents
from suite import _core
from suite.base.special import SpecialIds
from suite.data import bpe, encode, encoder, pack, tokenizer
from suite.data.library import Library
from suite.data.source import Source
from suite.data.texts import Texts
from suite.data.tokenizer import Tokenizer

CODE_POINTS = [chr(point) for point in range(0x110000) if not 0xD800 <= point <= 0xDFFF]
ODD = [
    "", "'", "''", " '", " ", "  ", "   x", "\t", "\n\n\r\n", "a  b", "a \n b", "a\u00a0b", "\u00a0\u00a0 a",
    "a\u3000 b", "it's 'S don't we'll we'LL I've they're o'd 've' 'l 'r", "'s's's", "!'s", " 's", "x'", "1'2",
    "a" * 100_000, " " * 100_000, "ab" * 3000, "é" * 5000, "東京" * 3000, "1" * 5000, "." * 5000, "<eos>",
    "a<eos> <bos>", "\x00\x01\x7f", "👩\u200d👩\u200d👧\u200d👦🏳️\u200d🌈", "e\u0301\u0301\u0301", "مرحبا بالعالم",
    "नमस्ते", "ﬀ Ǆ ß", "\ufeff\ufffe", "Ⅷ ² ½ ٣", "exactly15bytes!", "sixteen-letters-", "abcdefghijklmno",
    "abcdefghijklmnop", " abcdefghijklmn", "x" * 15 + "é",
]  # fmt: skip


@pytest.fixture(scope="module")
def ours(tokenizer_dir: Path) -> Tokenizer:
    return tokenizer.load(tokenizer_dir)


def same(one: Tokenizer, documents: list[str]) -> None:
    assert one.slow_because is None
    texts = Texts.of(documents)
    if not np.array_equal(one.stream(texts), one.reference_stream(texts)):
        for document in documents:
            alone = Texts.of([document])
            assert one.stream(alone).tolist() == one.reference_stream(alone).tolist(), repr(document[:200])


@pytest.mark.parametrize(
    "template", ["{}'ll", " {} ", *(pytest.param(one, marks=pytest.mark.slow) for one in ("{}", "a{}1", "{0}{0}\n"))]
)
def test_every_code_point(ours, template):
    step = 8  # as many in one document: the words in it begin and end at each of them all the same
    documents = [template.format(char) for char in CODE_POINTS]
    same(ours, ["\n!".join(documents[i : i + step]) for i in range(0, len(documents), step)])


def test_the_classes_are_those_of_the_library():
    written = (Path(__file__).parents[1] / "rust" / "core" / "src" / "bpe" / "classes.rs").read_text()
    made = unicode_classes.text()
    assert unicode_classes.without_version(written) == unicode_classes.without_version(made)


def test_text_made_to_trip_it(ours):
    same(ours, ODD)
    same(ours, odd_documents(2000, seed=5))


PIECES = [*"ab'sltdmrve 1.\n\t", "é", "東", "\u00a0", "🙂", "\u0301", " the", "  ", " an"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), max_size=8))
def test_any_text(ours, documents):
    same(ours, documents)


def with_model(content: dict, **changes) -> Tokenizer:
    content = {**content, **changes}
    return Tokenizer(Library.of(content), SpecialIds(0, 1, 2), None)


@pytest.fixture(scope="module")
def content(tokenizer_dir: Path) -> dict:
    return json.loads((tokenizer_dir / "tokenizer.json").read_text())


def test_a_space_before_each_text(content):
    one = with_model(content, pre_tokenizer={**content["pre_tokenizer"], "add_prefix_space": True})
    same(one, ODD)
    assert one.encode("a") == one.encode(" a")


def test_ids_of_32_bits(content):
    vocab = {token: number if number < 100 else number + 70_000 for token, number in content["model"]["vocab"].items()}
    one = with_model(content, model={**content["model"], "vocab": vocab})
    assert one.dtype == np.uint32
    same(one, [*ODD, *odd_documents(500)])


def test_pairs_that_make_one_token(content):
    """No training makes them, but vocabularies may have them; then the order of stale pairs in the queue matters."""
    draw = random.Random(3)
    vocab = {char: number for number, char in enumerate(bpe.byte_characters(), 3)}
    merges: list[tuple[str, str]] = []
    while len(merges) < 400:  # every pair of an alphabet of three letters that makes a token, in a random order
        left, right = (draw.choice([token for token in vocab if set(token) <= set("abc")]) for _ in range(2))
        if len(left + right) <= 6 and (left, right) not in merges:
            vocab.setdefault(left + right, len(vocab) + 3)
            merges.append((left, right))
    assert len(merges) - len({left + right for left, right in merges}) > 50
    model = {**content["model"], "vocab": {"<bos>": 0, "<eos>": 1, "<pad>": 2, **vocab}, "merges": merges}
    one = with_model(content, model=model)
    same(one, ["".join(draw.choices("abc", k=draw.randrange(40))) for _ in range(20_000)])


PREPEND, REPLACE = {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
METASPACE = {"type": "Metaspace", "replacement": "▁"}
SPACED = {  # normaliser, pre-tokeniser
    "llama-2": ({"type": "Sequence", "normalizers": [PREPEND, REPLACE]}, None),
    "no prefix": (REPLACE, None),
    "whole": (None, {**METASPACE, "prepend_scheme": "first", "split": False}),
    "divided": (None, {**METASPACE, "prepend_scheme": "always", "split": True}),
    "never": (None, {**METASPACE, "prepend_scheme": "never", "split": True}),
}


@functools.cache
def spaced(name: str) -> Tokenizer:
    """Merges of all kinds: runs of spaces, line ends, a byte's token, and pairs that make one token."""
    special = ["<unk>", "<s>", "</s>"]
    letters = [*"▁abct\n\té東", "\u0301", "🙂"]
    pairs = [
        ("▁", "a"),
        ("a", "b"),
        ("▁", "▁"),
        ("▁▁", "▁▁"),
        ("▁a", "b"),
        ("▁", "ab"),
        ("b", "a"),
        ("ab", "a"),
        ("a", "ba"),
    ]
    pairs += [("\n", "\n"), ("c", "\n"), ("▁▁", "c"), ("東", "東"), ("é", "a"), ("<0xC3>", "<0xA4>"), ("t", "<0xC3>")]
    made = dict.fromkeys(left + right for left, right in pairs)
    vocab = {token: number for number, token in enumerate([*special, *bpe.byte_tokens(), *letters, *made])}
    model = {
        "type": "BPE",
        "unk_token": "<unk>",
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": vocab,
        "merges": pairs,
    }
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    tokens = [{"id": number, "content": token, **added} for number, token in enumerate(special)]
    normalizer, words = SPACED[name]
    content = {
        "normalizer": normalizer,
        "pre_tokenizer": words,
        "model": model,
        "added_tokens": tokens,
        "version": "1.0",
    }
    return Tokenizer(Library.of({**content, "decoder": None, "post_processor": None}), SpecialIds(1, 2, None), None)


@pytest.mark.parametrize("name", SPACED)
def test_words_that_spaces_begin(name):
    one = spaced(name)
    same(
        one,
        [*ODD, "▁", "▁▁ a", "a▁b ", "<s> a</s>", "<0xC3>", " " * 15 + "a", " " * 16, "tä" * 9, "\n\nc\n  c", "東" * 99],
    )
    same(one, odd_documents(1000, seed=9))
    draw = random.Random(2)
    same(one, ["".join(draw.choices("ab ▁\nctäé東", k=draw.randrange(60))) for _ in range(5000)])


@pytest.mark.parametrize("template", ["{} a", pytest.param("a{0}{0}b", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["llama-2", pytest.param("divided", marks=pytest.mark.slow)])
def test_every_code_point_in_words_that_spaces_begin(name, template):
    documents = [template.format(char) for char in CODE_POINTS]
    same(spaced(name), [" b".join(documents[i : i + 8]) for i in range(0, len(documents), 8)])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*SPACED]), st.lists(st.text(st.sampled_from("ab ▁\nctäé東🙂<"), max_size=40), max_size=5))
def test_any_text_of_words_that_spaces_begin(name, documents):
    same(spaced(name), documents)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"byte_fallback": False}, "its model has no byte_fallback"),
        ({"without": "<0x41>"}, "its vocabulary lacks <0x41>"),
        ({"merges": [("b", "▁"), ("b▁", "a")], "more": ["b▁", "b▁a"]}, "its token 'b▁' reaches across a space"),
        ({"ignore_merges": True}, "its model has ignore_merges"),
    ],
)
def test_words_that_spaces_begin_which_the_library_encodes(change, reason):
    content = json.loads(json.dumps(spaced("llama-2").library.content))
    vocab = content["model"]["vocab"]
    vocab.pop(change.pop("without", None), None)
    vocab |= {token: len(vocab) + number + 1 for number, token in enumerate(change.pop("more", []))}
    content["model"] |= change
    one = Tokenizer(Library.of(content), SpecialIds(1, 2, None), None)
    assert one.slow_because == reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pre_tokenizer": None}, "its pre_tokenizer is None, not ByteLevel"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "its pre_tokenizer is Whitespace"),
        ({"normalizer": {"type": "NFC"}}, "it has a normalizer, NFC"),
        ({"model": "byte_fallback"}, "its model has byte_fallback"),
        ({"model": "ignore_merges"}, "its model has ignore_merges"),
        ({"added_tokens": "plain"}, "it finds the added token 'fox' in texts"),
    ],
)
def test_kinds_that_the_library_encodes(content, changes, reason):
    if isinstance(changes.get("model"), str):
        changes = {"model": {**content["model"], changes["model"]: True}}
    if changes.get("added_tokens"):
        plain = {**content["added_tokens"][0], "id": 3, "content": "fox", "special": False}
        changes = {"added_tokens": [*content["added_tokens"], plain]}
    one = with_model(content, **changes)
    assert one.slow_because and one.slow_because.startswith(reason)
    texts = Texts.of(["a fox", "über"])
    assert one.stream(texts).tolist() == one.reference_stream(texts).tolist()


def test_a_difference_is_found_at_the_start_of_a_job_and_said(corpus, tokenizer_dir, tmp_path, monkeypatch, capsys):
    def tokens(folder: str) -> dict[str, bytes]:
        one = tokenizer.load(tokenizer_dir)
        pack.tokenize(Source(str(corpus)), one, tmp_path / folder, encode.Shape(16), pack.one_pass(map), name="train")
        return {path.name: path.read_bytes() for path in (tmp_path / folder).glob("*.parquet")}

    right = tokens("right")
    assert not capsys.readouterr().err

    def wrong(content, eos, wide):
        bytes_ = [content["model"]["vocab"][char] for char in bpe.byte_characters()]
        return _core.Encoder(bytes_, [], add_prefix_space=False, eos=eos, wide=wide)

    monkeypatch.setattr(encoder, "make", wrong)
    encode._known.clear()
    assert tokens("fallen-back") == right
    assert "our encoder and the tokenizers library differ on this text" in capsys.readouterr().err
    encode._known.clear()


def test_a_tokenizer_that_the_library_encodes_is_named(content, corpus, tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps({**content, "normalizer": {"type": "NFC"}}))
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<bos>", "eos_token": "<eos>"}')
    from typer.testing import CliRunner

    from suite.tokenize import app

    arguments = ["-i", corpus, "-t", folder, "-l", "16", "--out-dir", tmp_path / "tokens", "--workers", "1"]
    said = CliRunner().invoke(app, [str(one) for one in arguments])
    assert "note: not encoded by our own encoder, so slowly: it has a normalizer, NFC" in said.stderr
    assert "there already" in call("tokenize", *arguments)
