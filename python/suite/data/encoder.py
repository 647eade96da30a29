"""Which tokenizers the encoder in Rust takes, and how it is made from a tokenizer.json.

It takes byte-level BPE with GPT-2's words, which is what `suite train-tokenizer` makes, and BPE with byte fallback
whose spaces are a visible character, which is Llama 2's. All others are encoded by the tokenizers library, which is the
reference for these as well: tests/test_encoder.py compares them on every code point, and every job compares them on a
sample of its own documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from suite import _core
from suite.data import spelling
from suite.data.bpe import byte_characters, byte_tokens


class Spaces(NamedTuple):
    """How a vocabulary whose spaces are a visible character divides words; as `_core.CharacterWords` takes it."""

    visible: str
    prefix: str  # a space comes before a text: "never", "always", "unless there"
    runs: bool  # a run of spaces begins a word, otherwise each does


def spaces(content: Mapping[str, Any]) -> Spaces | None:
    """Of Llama 2's tokenizer.json, old (the normaliser does it) and new (Metaspace); None for other shapes."""
    normal, words = list(spelling.steps(content["normalizer"])), list(spelling.steps(content["pre_tokenizer"]))
    if not normal and [step["type"] for step in words] == ["Metaspace"]:
        prefix = "never" if words[0]["prepend_scheme"] == "never" else "unless there"
        return Spaces(words[0]["replacement"], prefix, not words[0].get("split", True))
    visible = spelling.space(content)
    if words or visible is None or len(visible) != 1:
        return None
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": visible}
    prepend = {"type": "Prepend", "prepend": visible}
    if normal == [replace]:
        return Spaces(visible, "never", True)
    return Spaces(visible, "always", True) if normal in ([prepend, replace], [replace, prepend]) else None


def obstacle(content: Mapping[str, Any]) -> str | None:
    """Why the encoder in Rust does not take a tokenizer.json; None when it does."""
    model, words = content["model"], content["pre_tokenizer"] or {}
    if model.get("type") != "BPE":
        return f"its model is {model.get('type')}, not BPE"
    spaced = spaces(content)
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback", "ignore_merges"):
        if model.get(key) and not (spaced and key == "byte_fallback"):
            return f"its model has {key}"
    if plain := [token["content"] for token in content["added_tokens"] if not token["special"]]:
        return f"it finds the added token {plain[0]!r} in texts"
    if spaced:
        return _characters_obstacle(model, spaced)
    if content["normalizer"]:
        return f"it has a normalizer, {content['normalizer'].get('type')}"
    if words.get("type") != "ByteLevel" or not words.get("use_regex", True):
        return f"its pre_tokenizer is {words.get('type')}, not ByteLevel with GPT-2's words"
    if absent := [char for char in byte_characters() if char not in model["vocab"]]:
        return f"its vocabulary lacks {len(absent)} of the 256 bytes"
    return None


def _characters_obstacle(model: Mapping[str, Any], spaced: Spaces) -> str | None:
    if not model.get("byte_fallback"):
        return "its model has no byte_fallback"
    if absent := [token for token in [*byte_tokens(), spaced.visible] if token not in model["vocab"]]:
        return f"its vocabulary lacks {absent[0]}"
    if spaced.runs:  # no words but ours: then no token may reach into the next one
        for left, right in _merges(model):
            if spaced.visible in (left + right).lstrip(spaced.visible):
                return f"its token {left + right!r} reaches across a space"
    return None


def make(content: Mapping[str, Any], eos: int, wide: bool) -> _core.Encoder:
    """The encoder of a tokenizer.json without obstacle; `wide` ids have 32 bits."""
    vocab, spaced = content["model"]["vocab"], spaces(content)
    merges = [(vocab[left], vocab[right], vocab[left + right]) for left, right in _merges(content["model"])]
    if spaced:
        characters = {token: number for token, number in vocab.items() if len(token) == 1}
        characters[" "] = vocab[spaced.visible]
        bytes_ = [vocab[token] for token in byte_tokens()]
        return _core.Encoder.of_characters(bytes_, characters, merges, **spaced._asdict(), eos=eos, wide=wide)
    return _core.Encoder(
        [vocab[char] for char in byte_characters()],
        merges,
        add_prefix_space=content["pre_tokenizer"]["add_prefix_space"],
        eos=eos,
        wide=wide,
    )


def _merges(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs = (pair.split(" ", 1) if isinstance(pair, str) else pair for pair in model["merges"])
    return [(left, right) for left, right in pairs]
