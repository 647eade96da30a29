"""A SentencePiece model as a tokenizer.json, where that gives the same ids.

For BPE it does, but for this: of two overlapping pairs that make one piece sentencepiece merges the left one, and a
tokenizer.json the one earlier in its list. So both encode the same texts here, and a model for which one differs stays
a model, as do the other kinds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from suite.base.errors import TokenizerError
from suite.data.library import Library
from suite.data.pieces import VISIBLE, Pieces, model_proto

ODD = (
    "", " ", "  ", "a", " a", "  a  b   ", "\n", "\n\n a\r\n\tb", "\t", "\x00\x01\x7f", "it's we'll 've", "aaaaaaaaa",
    "abababababab", "1234567890 3.14 1,000", "....!!!???---", "<s> a </s><unk><pad>", "<0x0A>", "▁a▁▁b",
    "a\u00a0b\u3000c\u200b", "e\u0301 é \u0344", "ﬀ Ǆ ß Ⅷ ½", "東京都", "مرحبا", "नमस्ते",
    "👩\u200d👩\u200d👧 🏳️\u200d🌈", "\ufeff\ufffe\ufffd\U0010ffff", "a" * 3000, " " * 3000, "é" * 999, "ab cd " * 2000,
)  # fmt: skip


def converted(pieces: Pieces, texts: Iterable[str] = ()) -> tuple[Library | None, str]:
    """The tokenizer.json of a model, or None and why not: a kind that has none, or a text with other ids.

    Both encode ODD and `texts`.
    """
    try:
        library = Library.of(content(pieces), pieces.model)
    except TokenizerError as error:
        return None, str(error)
    for text in (*ODD, *texts):
        if library.encode([text]) != pieces.encode([text]):
            return None, f"the tokenizers library and sentencepiece differ on {text[:40]!r}"
    return library, ""


def content(pieces: Pieces) -> dict[str, Any]:
    """Raises TokenizerError for a kind of model that the tokenizers library has none for."""
    proto = model_proto(pieces.model)
    trainer, normal = proto.trainer_spec, proto.normalizer_spec
    if trainer.treat_whitespace_as_suffix:
        raise TokenizerError("a tokenizer.json puts no space behind a text, as this model does")
    if normal.remove_extra_whitespaces:
        raise TokenizerError("a tokenizer.json does not drop spaces the way this model does")
    if normal.precompiled_charsmap:
        raise TokenizerError(f"this model's normaliser, {normal.name}, is not exactly that of the tokenizers library")
    if trainer.model_type != trainer.BPE:
        raise TokenizerError(
            "only BPE models become the same tokenizer.json: sentencepiece adds unigram scores up in 32 bits, the "
            "tokenizers library in 64, and finds special tokens in texts"
        )
    kinds = (proto.SentencePiece.NORMAL, proto.SentencePiece.USER_DEFINED)
    ranked = [(-piece.score, number) for number, piece in enumerate(proto.pieces) if piece.type in kinds]
    model = {
        "type": "BPE", "dropout": None, "unk_token": trainer.unk_piece, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": trainer.byte_fallback, "ignore_merges": False,
        "vocab": {piece.piece: number for number, piece in enumerate(proto.pieces)},
        "merges": merges([proto.pieces[number].piece for _, number in sorted(ranked)]),
    }  # fmt: skip
    steps: list[dict[str, Any]] = [{"type": "Prepend", "prepend": VISIBLE}] if normal.add_dummy_prefix else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": VISIBLE})
    decoders = [
        {"type": "Replace", "pattern": {"String": VISIBLE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if normal.add_dummy_prefix else []),
    ]
    special = (proto.SentencePiece.CONTROL, proto.SentencePiece.UNKNOWN)
    kept = (*special, proto.SentencePiece.USER_DEFINED)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": number, "content": piece.piece, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": piece.type in special}
            for number, piece in enumerate(proto.pieces) if piece.type in kept
        ],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": model,
    }  # fmt: skip


def merges(ranked: Sequence[str]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a piece, the best piece first: what a model says with scores alone."""
    rank = {piece: number for number, piece in enumerate(ranked)}
    pairs: list[tuple[str, str]] = []
    for piece in ranked:
        halves = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        known = [(left, right) for left, right in halves if left in rank and right in rank]
        pairs += sorted(known, key=lambda pair: (rank[pair[0]], rank[pair[1]]))
    return pairs
