"""Columns joined by a template: `{system_prompt}\\n\\n{question}\\n{response}` makes one document of three columns.

Any format of file can be read this way: a reader knows one text column, so a template is a source for each of its
fields over the same blocks, and their documents are joined row by row in Rust, without Python strings.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from suite import _core
from suite.base.errors import SourceError
from suite.data.source import DEFAULT_BLOCK_BYTES, TextSource
from suite.data.texts import Texts

_FIELD = re.compile(r"\w[\w -]*")


@dataclass(frozen=True)
class Template:
    """Text between fields: `between[0] fields[0] between[1] ...`; one piece more than there are fields."""

    text: str
    between: tuple[str, ...]
    fields: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Only plain `{name}`, and `{{` and `}}` for braces. Raises SourceError for anything else.

        Nothing reaches into a value ({a.b}, {a[0]}) or formats it ({a!r}, {a:>9}): a template is data, not code.
        """
        between, fields, literal = [], [], ""
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise SourceError(f"template {text!r}: {error}; '{{{{' and '}}}}' are braces of the text") from None
        for before, name, form, conversion in parts:
            literal += before
            if name is None:
                continue
            if not _FIELD.fullmatch(name) or form or conversion:
                raise SourceError(f"template {text!r}: a field is a column's name in braces, such as {{question}}")
            between.append(literal)
            fields.append(name)
            literal = ""
        if not fields:
            raise SourceError(f"template {text!r}: names no column; a field is written {{question}}")
        return cls(text, (*between, literal), tuple(fields))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads, each once."""
        return tuple(dict.fromkeys(self.fields))


@dataclass(frozen=True)
class Templated:
    """The rows of several columns as documents. `columns` holds a source for each of `template.columns`."""

    template: Template
    columns: tuple[TextSource, ...]

    @property
    def spec(self) -> str:
        return self.columns[0].spec

    @property
    def split(self) -> str:
        return self.columns[0].split

    def blocks(self, block_bytes: int = DEFAULT_BLOCK_BYTES) -> list[Any]:
        """Cut by the column that has most text: cut by a short one, a block would hold too much of the others."""
        return max((column.blocks(block_bytes) for column in self.columns), key=len)

    def pieces(self, block: Any) -> Iterator[Texts]:
        """The documents of a block. Raises SourceError where a column cannot be read, or has other rows."""
        sources = [column.pieces(block) for column in self.columns]
        held = [Texts.of([]) for _ in sources]
        while True:
            for number, source in enumerate(sources):
                while not held[number].num_documents and (piece := next(source, None)) is not None:
                    held[number] = piece
            num = min(texts.num_documents for texts in held)  # columns come in pieces of different lengths
            if not num:
                break
            yield self._joined([texts.only(slice(num)) for texts in held])
            held = [texts.only(slice(num, None)) for texts in held]
        if longer := [name for name, texts in zip(self.template.columns, held, strict=True) if texts.num_documents]:
            raise SourceError(f"{self.spec}: column {longer[0]!r} has more rows than others of the template")

    def _joined(self, columns: list[Texts]) -> Texts:
        by_name = dict(zip(self.template.columns, columns, strict=True))
        found = [by_name[name] for name in self.template.fields]
        between = [piece.encode() for piece in self.template.between]
        data, edges = _core.join_texts(between, [(one.data, one.starts, one.stops) for one in found])
        return Texts.cut(data, np.frombuffer(edges, np.int64))

    def head(self, block: Any) -> Texts:
        heads = [column.head(block) for column in self.columns]
        num = min(texts.num_documents for texts in heads)
        return self._joined([texts.only(slice(num)) for texts in heads])

    def fingerprint(self) -> str:
        """The first column's, which is of whole files, and the template."""
        return hashlib.sha256(json.dumps([self.template.text, self.columns[0].fingerprint()]).encode()).hexdigest()

    def identity(self) -> str:
        return f"{self.columns[0].identity()} template={self.template.text!r}"
