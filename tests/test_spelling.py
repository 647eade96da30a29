"""The bytes of ids: joined over a document they are its text, whatever kind of vocabulary spells it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from conftest import odd_documents
from suite.base.special import SpecialIds
from suite.data import tokenizer
from suite.data.library import Library
from suite.data.spelling import UNKNOWN
from suite.data.tokenizer import Tokenizer

SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁", "a", "b", "▁a", "ab", "▁ab", "e", "é", "e\u0301"]
MERGES = [("a", "b"), ("▁", "a"), ("▁", "ab")]


def made(model: Any, **parts: Any) -> Tokenizer:
    backend = tokenizers.Tokenizer(model)
    for name, part in parts.items():
        setattr(backend, name, part)
    backend.add_special_tokens(SPECIAL)
    return Tokenizer(Library(backend), SpecialIds(1, 2, None), None)


def fallback_bpe() -> Any:
    vocab = {token: number for number, token in enumerate([*SPECIAL, *BYTES, *WORDS])}
    return models.BPE(vocab, MERGES, unk_token="<unk>", byte_fallback=True, fuse_unk=True)


def unigram(byte_fallback: bool) -> Any:
    tokens = [*SPECIAL, *BYTES, *WORDS] if byte_fallback else [*SPECIAL, *WORDS]
    return models.Unigram([(token, -float(rank)) for rank, token in enumerate(tokens)], 0, byte_fallback)


LEGACY = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
KINDS = {
    "llama-2 legacy": lambda: made(fallback_bpe(), normalizer=LEGACY),
    "metaspace": lambda: made(fallback_bpe(), pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always")),
    "unigram": lambda: made(unigram(True), pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="always")),
}


@settings(max_examples=100, deadline=None)
@given(st.text())
@pytest.mark.parametrize("kind", KINDS)
def test_joined_bytes_are_the_text_behind_a_space(kind, text):
    assume(not any(token in text for token in SPECIAL))  # in the library's unigram they are words like others
    one = _once(kind)
    spelled = one.bytes_of_ids()
    assert spelled and [spelled[number] for number in (0, 1, 2)] == [UNKNOWN, b"", b""]
    joined = b"".join(spelled[number] for number in one.encode(text))
    assert joined.removeprefix(b" ") in (one.spelled(text), one.spelled(text).removeprefix(b" "))
    assert one.spelled(text) == text.replace("▁", " ").encode()  # the same ids stand for both


def test_joined_bytes_of_a_byte_level_vocabulary_are_the_text(tokenizer_dir):
    one = tokenizer.load(tokenizer_dir)
    spelled = one.bytes_of_ids()
    assert spelled and len(spelled) == one.vocab_size and spelled[:3] == [b"", b"", b""]
    for document in [*odd_documents(300), "".join(map(chr, range(0x500)))]:
        assert (
            b"".join(spelled[number] for number in one.encode(document)) == document.encode() == one.spelled(document)
        )


def test_the_bytes_are_of_the_normalized_text(tokenizer_dir):
    content = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "NFC"}
    one = Tokenizer(Library.of(content), SpecialIds(0, 1, 2), None)
    spelled = one.bytes_of_ids()
    assert spelled and b"".join(spelled[number] for number in one.encode("e\u0301")) == "é".encode()
    assert one.spelled("e\u0301") == "é".encode()


def test_what_is_unknown_is_found_by_no_text():
    one = made(unigram(False), pre_tokenizer=pre_tokenizers.Metaspace())
    spelled = one.bytes_of_ids()
    assert spelled and b"".join(spelled[number] for number in one.encode("a東b")) == b" a" + UNKNOWN + b"b"


@pytest.mark.parametrize(
    "one",
    [
        lambda: made(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")),
        lambda: made(fallback_bpe(), pre_tokenizer=pre_tokenizers.Whitespace()),
        lambda: made(fallback_bpe(), pre_tokenizer=pre_tokenizers.Split(Regex(r"\s"), "removed")),
        lambda: made(models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>"), decoder=decoders.BPEDecoder()),
    ],
)
def test_ids_that_do_not_spell_texts(one):
    assert one().bytes_of_ids() is None


_made: dict[str, Tokenizer] = {}


def _once(kind: str) -> Tokenizer:
    return _made.setdefault(kind, KINDS[kind]())
