"""The tokens that are not text, as ids: what data writes and models are told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SpecialIds:
    bos: int
    eos: int
    pad: int | None
