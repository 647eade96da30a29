"""Conversations as documents: a record's messages, as JSON, from jsonl and parquet files wherever they lie.

A record has `messages`, a list of {role, content} (or {from, value}, as ShareGPT has them, under `conversations`), or a
`prompt` and a `completion`. A document is [[role, content], ...], written in one way: hashes are of what was said.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from suite.base.errors import SourceError
from suite.data import formats
from suite.data.block import DEFAULT_BLOCK_BYTES, Block
from suite.data.chat import ANSWERER, Message
from suite.data.formats import jsonl, parquet
from suite.data.source import Source
from suite.data.texts import Texts

# ShareGPT's words.
_ROLES = {"human": "user", "gpt": ANSWERER}
_LISTS = ("messages", "conversations")
_PAIR = ("prompt", "completion")


@dataclass(frozen=True)
class Conversations:
    """The conversations of a source's records, in place of one column's text."""

    source: Source

    @property
    def spec(self) -> str:
        return self.source.spec

    @property
    def split(self) -> str:
        return self.source.split

    def blocks(self, block_bytes: int = DEFAULT_BLOCK_BYTES) -> list[Block]:
        return self.source.blocks(block_bytes)

    def pieces(self, block: Block) -> Iterator[Texts]:
        """Raises SourceError, naming file and record, for what is not a conversation."""
        if block.kind not in ("jsonl", "parquet") or block.streamed:
            raise SourceError(f"{block.where}: conversations are read from jsonl and parquet files, uncompressed")
        if block.kind == "jsonl":
            records = jsonl.records(block, self.source.errors)
        else:
            records = parquet.records(block, (*_LISTS, *_PAIR))
        empty = True
        for found, where in records:
            yield Texts.of([_document(record, functools.partial(where, n)) for n, record in enumerate(found)])
            empty = False
        if empty:
            yield Texts.of([])

    def head(self, block: Block) -> Texts:
        return next(self.pieces(formats.head(block)))

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    def identity(self) -> str:
        return self.source.identity() + " conversations"


def read(document: str) -> list[Message]:
    """The messages of a document that this module made."""
    return [(role, content) for role, content in json.loads(document)]


def _document(record: Any, where: Callable[[], str]) -> str:
    try:
        text = json.dumps(_messages(record), ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{where()}: half a character (a lone surrogate) in a message") from None
    except ValueError as error:
        raise SourceError(f"{where()}: {error}") from None
    return text


def _messages(record: Any) -> list[Message]:
    if not isinstance(record, dict):
        raise ValueError(f"a {type(record).__name__}, expected a record")
    listed = next((record[name] for name in _LISTS if record.get(name) is not None), None)
    if listed is None and all(isinstance(record.get(name), str) for name in _PAIR):
        return [("user", record["prompt"]), (ANSWERER, record["completion"])]
    if not isinstance(listed, list):
        raise ValueError(
            "no conversation: expected messages, a list of role and content, or prompt and completion, two texts; it "
            f"has {', '.join(record) or 'nothing'}"
        )
    messages = []
    for number, one in enumerate(listed):
        role = one.get("role", one.get("from")) if isinstance(one, dict) else None
        content = one.get("content", one.get("value")) if isinstance(one, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise ValueError(f"message {number} is not a role and a content that are texts")
        messages.append((_ROLES.get(role, role), content))
    return messages
