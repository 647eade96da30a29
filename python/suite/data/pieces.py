"""A SentencePiece model, encoded by the sentencepiece package; `data.convert` makes a tokenizer.json of it."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any

from suite.base.errors import TokenizerError
from suite.base.store import sync
from suite.data.spelling import UNKNOWN

VISIBLE = "\u2581"  # what a piece has for a space


class Pieces:
    """`model` is the file's content. Raises TokenizerError for anything else, or without the sentencepiece package."""

    files = ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
    transformers_class = "SentencePieceBackend"  # encodes by the package as well
    slow_because = "it is a SentencePiece model, which the sentencepiece package encodes"

    def __init__(self, model: bytes, name: str = "the model") -> None:
        self.model = model
        try:
            self.processor = sentencepiece().SentencePieceProcessor()
            self.processor.load_from_serialized_proto(model)
        except RuntimeError as error:
            raise TokenizerError(f"{name}: not a SentencePiece model ({short(error)})") from None
        self.vocab_size: int = self.processor.get_piece_size()

    @classmethod
    def read(cls, file: Path) -> Pieces:
        return cls(file.read_bytes(), str(file))

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """What decides the ids."""
        return {"sentencepiece": hashlib.sha256(self.model).hexdigest()}

    @property
    def special_ids(self) -> dict[str, int]:
        one = self.processor
        ids = {"bos": one.bos_id(), "eos": one.eos_id(), "pad": one.pad_id()}
        return {role: number for role, number in ids.items() if number >= 0}

    @property
    def unknown(self) -> int:
        return self.processor.unk_id()

    def id_of(self, token: str) -> int | None:
        number = self.processor.piece_to_id(token)  # <unk> for what is no piece
        return number if self.token_of(number) == token else None

    def token_of(self, number: int) -> str:
        return self.processor.id_to_piece(number)

    @property
    def reserved(self) -> set[int]:
        """Ids that no text has."""
        return {number for number in range(self.vocab_size) if self.processor.is_control(number)}

    def encode(self, documents: list[str]) -> list[list[int]]:
        """The ids of each document, no special ones: a special token's name in a text is text."""
        return self.processor.encode(documents, out_type=int)

    def decode(self, ids: list[int]) -> str:
        return self.processor.decode(ids)

    def bytes_of_ids(self) -> list[bytes]:
        one = self.processor
        spelled = [one.id_to_piece(number).replace(VISIBLE, " ").encode() for number in range(self.vocab_size)]
        for number in range(self.vocab_size):
            if one.is_byte(number):
                spelled[number] = bytes([int(one.id_to_piece(number)[3:5], 16)])
            elif one.is_control(number) or one.is_unused(number):
                spelled[number] = b""
        spelled[one.unk_id()] = UNKNOWN
        return spelled

    def spelled(self, text: str) -> bytes:
        """The text as the model's normaliser leaves it, without the space that it puts before (or behind) one."""
        normal: str = self.processor.normalize(text)
        if self.processor.normalize("a").startswith(VISIBLE):
            normal = normal.removeprefix(VISIBLE)
        elif self.processor.normalize("a").endswith(VISIBLE):
            normal = normal.removesuffix(VISIBLE)
        return normal.replace(VISIBLE, " ").encode()

    def with_pad(self, token: str) -> Pieces:
        """The same with one more token, for padding; texts keep their ids."""
        proto = model_proto(self.model)
        proto.pieces.add(piece=token, score=0.0, type=proto.SentencePiece.CONTROL)
        proto.trainer_spec.pad_id, proto.trainer_spec.pad_piece = self.vocab_size, token
        return Pieces(proto.SerializeToString(deterministic=True))

    def write(self, folder: Path) -> None:
        write_bytes(folder / self.files[0], self.model)


def sentencepiece() -> Any:
    """The package. Raises TokenizerError where it is absent."""
    try:
        import sentencepiece as package
    except ImportError:
        raise TokenizerError(
            "SentencePiece models need the sentencepiece package: pip install 'suite[sentencepiece]'"
        ) from None
    return package


def model_proto(model: bytes) -> Any:
    """The model as a protocol buffer, which says more than the processor does."""
    sentencepiece()
    from sentencepiece import sentencepiece_model_pb2

    made: Any = sentencepiece_model_pb2  # its classes are made at run time
    return made.ModelProto.FromString(model)


def write_bytes(path: Path, data: bytes) -> None:
    """Replaces a file whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def short(error: Exception) -> str:
    """The last part of the package's "Internal: src/....cc(123) [expression] what is wrong"."""
    return str(error).strip().splitlines()[-1].rsplit("] ", 1)[-1].strip() or "damaged"
