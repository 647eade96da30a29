"""Conversations as token ids: a template says how a message looks, and which of its tokens are an answer's.

A template is one line for every message, such as "{role}: {content}{eos}". Its own words may name special tokens, which
become their ids; what people wrote is text whatever it says, so nobody ends a message by typing the token that does.
Each piece is encoded by itself: what a model reads when it is asked is, id for id, what it was trained on.
"""

from __future__ import annotations

import functools
import json
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from suite.base.errors import TokenizerError
from suite.base.store import write_json
from suite.data.texts import Texts
from suite.data.tokenizer import Tokenizer, read_config

TEMPLATES = {
    "plain": "{role}: {content}{eos}",
    "chatml": "<|im_start|>{role}\n{content}<|im_end|>\n",
    "llama3": "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
}
ANSWERER = "assistant"
_ROLE = re.compile(r"[A-Za-z][A-Za-z_-]{0,31}")  # a role stands in the template's own words: no token's name fits

Message = tuple[str, str]  # role, content


class Encoded(NamedTuple):
    """A conversation without <bos>: ids int64 [tokens], and its answers as pairs of first and last-plus-one token."""

    ids: np.ndarray
    answers: list[tuple[int, int]]


class Chat:
    """A template for one tokenizer. `template` is a name of TEMPLATES, or a text like them.

    Raises TokenizerError for a text that is no template, and where no special token ends a message: a model that has
    no such token to learn would never stop.
    """

    def __init__(self, template: str, encoder: Tokenizer, slow: bool = False) -> None:
        """slow: encode by the tokenizers library."""
        self._stream = encoder.reference_stream if slow else encoder.stream
        self.text = TEMPLATES.get(template, template)
        self.encoder = encoder
        fields = [name for _, name, form, conversion in _parsed(self.text) if name is not None and not form]
        before, _, after = self.text.partition("{content}")
        known = {*fields} <= {"role", "content", "bos", "eos"} and "{{" not in self.text and "}}" not in self.text
        if not known or fields.count("content") != 1 or "{role}" not in before or "{role}" in after:
            raise TokenizerError(
                f"chat template {template!r}: expected one of {', '.join(TEMPLATES)}, or a text with {{role}}, then "
                "{content} once, and {bos} or {eos} where those tokens stand"
            )
        # A space before a word belongs to its first token in most tokenizers, so it goes with the content.
        self.before = before.rstrip(" ")
        self.space = before[len(self.before) :]
        self.after = after
        self._heads: dict[str, list[int]] = {}
        self._after_ids = self._ids(after)
        ends = [at for at, token in enumerate(self._after_ids) if token in self._special.values()]
        if not ends:
            raise TokenizerError(
                f"chat template {template!r}: no special token of {encoder.folder} stands after the content, so "
                "nothing would tell the model to end an answer; {eos} is one"
            )
        self._end = ends[0] + 1  # tokens after the content that are the answer's
        self.end = self._after_ids[ends[0]]  # the token that ends an answer

    @functools.cached_property
    def _special(self) -> dict[str, int]:
        """Ids by the names that a template has for them."""
        library, special = self.encoder.library, self.encoder.special
        named = {library.token_of(number): number for number in sorted(library.reserved)}
        return {**named, "{bos}": special.bos, "{eos}": special.eos}

    def _ids(self, text: str) -> list[int]:
        """A template's own words: special tokens by their names, the rest as text."""
        names = "|".join(re.escape(name) for name in sorted(self._special, key=len, reverse=True))
        ids: list[int] = []
        for part in re.split(f"({names})", text):
            ids += [self._special[part]] if part in self._special else self.encoder.encode(part) if part else []
        return ids

    def _head(self, role: str) -> list[int]:
        if role not in self._heads:
            if not _ROLE.fullmatch(role):
                raise TokenizerError(f"role {role!r}: expected a word such as user, assistant, system or tool")
            self._heads[role] = self._ids(self.before.replace("{role}", role))
        return self._heads[role]

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[Encoded]:
        """The ids of many conversations; what is counted is every answer, and the token that ends it."""
        contents = [self.space + content for messages in conversations for _, content in messages]
        bodies = iter(self._bodies(contents))
        found = []
        for messages in conversations:
            parts: list[np.ndarray] = [np.empty(0, np.int64)]
            answers, at = [], 0
            for role, _ in messages:
                head, body = self._head(role), next(bodies)
                if role == ANSWERER:
                    first = at + len(head)
                    answers.append((first, first + len(body) + self._end))
                parts += [np.array(head, np.int64), body, np.array(self._after_ids, np.int64)]
                at += len(head) + len(body) + len(self._after_ids)
            found.append(Encoded(np.concatenate(parts), answers))
        return found

    def _bodies(self, contents: list[str]) -> list[np.ndarray]:
        if not contents:
            return []
        stream = self._stream(Texts.of(contents)).astype(np.int64)
        ends = np.flatnonzero(stream == self.encoder.special.eos)
        if len(ends) != len(contents):  # a tokenizer of someone else's that makes its <eos> from text as well
            return [np.array(self.encoder.encode(content), np.int64) for content in contents]
        return [part[:-1] for part in np.split(stream, ends[:-1] + 1)]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids, <bos> first, after which an answer is to be written."""
        [encoded] = self.encode([messages])
        return [self.encoder.special.bos, *encoded.ids.tolist(), *self._head(ANSWERER)]

    def write(self, folder: Path) -> None:
        """Into the tokenizer_config.json of a tokenizer's folder, where transformers looks for it."""
        path = folder / "tokenizer_config.json"
        write_json(path, {**read_config(path), "chat_template": self.jinja()})

    def jinja(self) -> str:
        """The template for transformers, whose apply_chat_template then writes the same text."""
        library, special = self.encoder.library, self.encoder.special

        def said(text: str) -> str:
            names = {"{bos}": library.token_of(special.bos), "{eos}": library.token_of(special.eos)}
            for name, token in names.items():
                text = text.replace(name, token)
            return json.dumps(text)

        pieces = [said(piece) for piece in (self.before + self.space).split("{role}")]
        head = " + message['role'] + ".join(pieces)
        asked = said(self.before.replace("{role}", ANSWERER))
        return (
            f"{{{{ {said('{bos}')} }}}}{{% for message in messages %}}"
            f"{{{{ {head} + message['content'] + {said(self.after)} }}}}{{% endfor %}}"
            f"{{% if add_generation_prompt %}}{{{{ {asked} }}}}{{% endif %}}"
        )


def _parsed(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(text))
    except ValueError as error:
        raise TokenizerError(f"chat template {text!r}: {error}") from None


def rendered(chat: str | None) -> str:
    """What a fingerprint says of the chat template that documents are written by."""
    return "" if chat is None else f"+chat {TEMPLATES.get(chat, chat)}"
