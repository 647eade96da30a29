"""The documents of a block as they lie in memory: UTF-8 in one buffer, and where each begins and ends.

Text that is only to be encoded never becomes Python strings: making and reading those costs more than encoding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np


class Texts(NamedTuple):
    """Document k is `data[starts[k]:stops[k]]`: uint8 [bytes], int64 [documents], int64 [documents]."""

    data: Any
    starts: np.ndarray
    stops: np.ndarray

    @classmethod
    def cut(cls, data: Any, edges: np.ndarray) -> Texts:
        """Neighbours without anything between them; `edges` has one place more than there are documents."""
        return cls(data, edges[:-1], edges[1:])

    @classmethod
    def of(cls, documents: Sequence[str]) -> Texts:
        encoded = [document.encode() for document in documents]
        edges = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(one) for one in encoded], out=edges[1:])
        return cls.cut(b"".join(encoded), edges)

    @property
    def num_documents(self) -> int:
        return len(self.starts)

    @property
    def num_bytes(self) -> int:
        return int((self.stops - self.starts).sum())

    def documents(self) -> Iterator[str]:
        data = memoryview(self.data)
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield str(data[start:stop], "utf-8")
