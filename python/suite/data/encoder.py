"""Which tokenizers the encoder in Rust takes, and how it is made from a tokenizer.json.

It takes byte-level BPE with GPT-2's words, which is what `suite train-tokenizer` makes. All others are encoded by the
tokenizers library, which is the reference for this one as well: tests/test_encoder.py compares them on every code
point, and every job compares them on a sample of its own documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suite import _core


def byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (Radford et al. 2019, encoder.py).

    Bytes that print stand for themselves; the others take the characters from U+0100 on.
    """
    prints = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


def obstacle(content: Mapping[str, Any]) -> str | None:
    """Why the encoder in Rust does not take a tokenizer.json; None when it does."""
    model, words = content["model"], content["pre_tokenizer"] or {}
    if model.get("type") != "BPE":
        return f"its model is {model.get('type')}, not BPE"
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(key):
            return f"its model has {key}"
    if content["normalizer"]:
        return f"it has a normalizer, {content['normalizer'].get('type')}"
    if words.get("type") != "ByteLevel" or not words.get("use_regex", True):
        return f"its pre_tokenizer is {words.get('type')}, not ByteLevel with GPT-2's words"
    if plain := [token["content"] for token in content["added_tokens"] if not token["special"]]:
        return f"it finds the added token {plain[0]!r} in texts"
    if absent := [char for char in byte_characters() if char not in model["vocab"]]:
        return f"its vocabulary lacks {len(absent)} of the 256 bytes"
    return None


def make(content: Mapping[str, Any], eos: int, wide: bool) -> _core.Encoder:
    """The encoder of a tokenizer.json without obstacle; `wide` ids have 32 bits."""
    vocab = content["model"]["vocab"]
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in content["model"]["merges"]]
    merges = [(vocab[left], vocab[right], vocab[left + right]) for left, right in pairs]
    return _core.Encoder(
        [vocab[char] for char in byte_characters()],
        merges,
        add_prefix_space=content["pre_tokenizer"]["add_prefix_space"],
        eos=eos,
        wide=wide,
    )
