"""The documents of a block as they lie in memory: UTF-8 in one buffer, and where each begins and ends.

Text that is only to be encoded never becomes Python strings: making and reading those costs more than encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from suite import _core
from suite.base.errors import SourceError


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

    def only(self, which: slice | np.ndarray) -> Texts:
        """Some of the documents, by their numbers or a mask, in the same buffer."""
        return Texts(self.data, self.starts[which], self.stops[which])

    def documents(self) -> Iterator[str]:
        data = memoryview(self.data)
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield str(data[start:stop], "utf-8")


def checked(texts: Texts, errors: str, where: Callable[[int], str]) -> Texts:
    """The texts as UTF-8. Raises SourceError for the first that is not, or reads it with replacement characters."""
    number = _core.not_utf8(*texts)
    if number is None:
        return texts
    data = memoryview(texts.data)
    pieces = [bytes(data[start:stop]) for start, stop in zip(texts.starts, texts.stops, strict=True)]
    return Texts.of([decoded(piece, errors, lambda i=i: where(i)) for i, piece in enumerate(pieces)])


def decoded(data: bytes, errors: str, where: Callable[[], str]) -> str:
    try:
        return data.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where()}: not UTF-8 ({error.reason} at byte {error.start}); --errors replace reads it"
        ) from None
