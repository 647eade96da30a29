"""The bytes that each id of a tokenizer stands for, which is what a search for text in tokens needs.

They are exact for vocabularies that spell texts: byte-level ones, and those whose spaces are a visible character
(Metaspace, SentencePiece), with or without byte fallback. What they spell is the text as the normaliser leaves it,
with a space before it where the tokenizer puts one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from suite.data import encoder

UNKNOWN = b"\xff"  # what <unk> stands for: a byte that no text has, so nothing is found across it
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_KEEP_EVERYTHING = ("ByteLevel", "Metaspace", "Digits", "Split", "Punctuation", "UnicodeScripts")


def obstacle(content: Mapping[str, Any]) -> str | None:
    """Why the ids of a tokenizer.json do not spell texts; None when they do."""
    model = content["model"]
    if model["type"] not in ("BPE", "Unigram"):
        return f"its model is {model['type']}"
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            return f"its model has {key}"
    for step in steps(content["pre_tokenizer"]):
        if step["type"] not in _KEEP_EVERYTHING or step.get("behavior") == "Removed":
            return f"its pre_tokenizer {step['type']} drops characters"
    for token in content["added_tokens"]:
        if not token["special"] and (token["lstrip"] or token["rstrip"]):
            return f"its added token {token['content']!r} takes the spaces beside it"
    return None


def bytes_of_ids(content: Mapping[str, Any], vocab_size: int) -> list[bytes] | None:
    """The bytes of each id below `vocab_size`: b"" for special tokens, UNKNOWN for <unk>. None: see `obstacle`."""
    if obstacle(content):
        return None
    model = content["model"]
    vocab = model["vocab"]
    if model["type"] == "Unigram":
        vocab = {token: number for number, (token, _) in enumerate(vocab)}
    spell = _byte_level if is_byte_level(content) else _characters(space(content), bool(model.get("byte_fallback")))
    spelled = [b""] * vocab_size
    for token, number in vocab.items():
        spelled[number] = spell(token)
    for token in content["added_tokens"]:
        spelled[token["id"]] = b"" if token["special"] else token["content"].encode()
    unknown = vocab.get(model.get("unk_token"), model.get("unk_id"))
    if unknown is not None:
        spelled[unknown] = UNKNOWN
    return spelled


def normalized(content: Mapping[str, Any], normalizer: Any, text: str) -> bytes:
    """The bytes that the ids of a text spell where it stands inside a longer one; `normalizer` is the library's."""
    if normalizer is not None:
        text = normalizer.normalize_str(text)
        for step in steps(content["normalizer"]):
            if step["type"] == "Prepend":
                text = text.removeprefix(step["prepend"])
    if not is_byte_level(content) and (visible := space(content)):
        text = text.replace(visible, " ")
    return text.encode()


def steps(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """A normaliser, pre-tokeniser, decoder or post-processor, one entry for each step of a Sequence."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    inner = next(part[key] for key in ("normalizers", "pretokenizers", "decoders", "processors") if key in part)
    for step in inner:
        yield from steps(step)


def is_byte_level(content: Mapping[str, Any]) -> bool:
    parts = [*steps(content["pre_tokenizer"]), *steps(content["normalizer"])]
    return any(step["type"] == "ByteLevel" for step in parts)


def space(content: Mapping[str, Any]) -> str | None:
    """The character that a vocabulary has for a space, which is U+2581 in nearly all; None when it is the space."""
    for step in steps(content["pre_tokenizer"]):
        if step["type"] == "Metaspace":
            return step["replacement"]
    for step in steps(content["normalizer"]):
        if step["type"] == "Replace" and step["pattern"] == {"String": " "}:
            return step["content"]
    return None


_BYTE_OF = {char: byte for byte, char in enumerate(encoder.byte_characters())}


def _byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF[char] for char in token)
    except KeyError:
        return token.encode()  # as the library decodes it; no text gives this id


def _characters(visible: str | None, byte_fallback: bool) -> Any:
    def spell(token: str) -> bytes:
        if byte_fallback and (byte := _BYTE.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        return (token.replace(visible, " ") if visible else token).encode()

    return spell
