"""A tokenizer.json and its encoding by the tokenizers library: the reference for every other way to encode it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from suite.base.errors import TokenizerError
from suite.base.store import write_json
from suite.data import encoder, spelling
from suite.data.pieces import write_bytes


class Library:
    """`backend` is a tokenizers.Tokenizer; `vocab_size` is one more than the largest id."""

    files = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

    transformers_class = "PreTrainedTokenizerFast"
    special_ids: Mapping[str, int] = {}  # a tokenizer.json does not say which token is <bos>

    def __init__(self, backend: Any, model: bytes | None = None) -> None:
        self.backend = backend
        self.model = model  # the SentencePiece model that it was converted from
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        backend.no_truncation()
        backend.no_padding()
        # The string "<eos>" in a document is five characters of somebody's text, not the end of it.
        backend.encode_special_tokens = True

    @classmethod
    def read(cls, file: Path) -> Library:
        import tokenizers

        try:
            return cls(tokenizers.Tokenizer.from_file(str(file)))
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"{file}: not a tokenizer ({error})") from None

    @classmethod
    def of(cls, content: Mapping[str, Any], model: bytes | None = None) -> Library:
        """From the content of a tokenizer.json. Raises TokenizerError when the library does not take it."""
        import tokenizers

        try:
            return cls(tokenizers.Tokenizer.from_str(json.dumps(content)), model)
        except Exception as error:
            raise TokenizerError(f"the tokenizers library does not take this tokenizer ({error})") from None

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """What decides the ids: tokenizer.json without padding and truncation."""
        content = json.loads(self.backend.to_str())
        content.pop("padding", None)
        content.pop("truncation", None)
        return content

    @property
    def slow_because(self) -> str | None:
        """Why our own encoder does not take it."""
        return encoder.obstacle(self.content)

    @property
    def unknown(self) -> int | None:
        """The id of <unk>."""
        model = self.content["model"]
        name = model.get("unk_token")
        return model.get("unk_id") if name is None else self.id_of(name)

    def id_of(self, token: str) -> int | None:
        return self.backend.token_to_id(token)

    def token_of(self, number: int) -> str:
        return self.backend.id_to_token(number)

    @property
    def reserved(self) -> set[int]:
        """Ids that no text has."""
        return {token["id"] for token in self.content["added_tokens"] if token["special"]}

    def encode(self, documents: list[str]) -> list[list[int]]:
        """The ids of each document, no special ones. Raises TokenizerError when a text cannot be encoded."""
        try:
            return [one.ids for one in self.backend.encode_batch_fast(documents, add_special_tokens=False)]
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"the tokenizer cannot encode this text ({error})") from None

    def decode(self, ids: list[int]) -> str:
        return self.backend.decode(ids, skip_special_tokens=True)

    def with_pad(self, token: str) -> Library:
        """The same with one more token, for padding; texts keep their ids. The library's own word for it is special."""
        content = json.loads(self.backend.to_str())
        added = {"id": self.vocab_size, "content": token, "special": True, "single_word": False}
        content["added_tokens"].append({**added, "lstrip": False, "rstrip": False, "normalized": False})
        return Library.of(content)

    def write(self, folder: Path) -> None:
        if self.model is not None:
            write_bytes(folder / "tokenizer.model", self.model)
        write_json(folder / "tokenizer.json", json.loads(self.backend.to_str()))

    def bytes_of_ids(self) -> list[bytes] | None:
        return spelling.bytes_of_ids(self.content, self.vocab_size)

    def spelled(self, text: str) -> bytes:
        return spelling.normalized(self.content, self.backend.normalizer, text)
