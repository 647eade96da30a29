"""What the kinds of BPE trained here share: the byte-level backend, and merges as tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from suite import _core

MERGES_PER_CALL = 64  # between two words on progress


def byte_level(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    """GPT-2's tokenizer, without its special tokens, as the tokenizers library has it."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def merged(trainer: _core.Trainer, tokens: list[str], advance: Callable[[float, str], None]) -> list[tuple[str, str]]:
    """All merges, in their order. `tokens`, which ends with the last id before them, gets what they make."""
    num_merges = 0
    while made := trainer.merge(MERGES_PER_CALL):
        num_merges += made
        advance(0, f"{num_merges:,} merges")
    merges: list[tuple[str, str]] = []
    for left, right in trainer.merges():
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    return merges
