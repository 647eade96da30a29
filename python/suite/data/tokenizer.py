"""Tokenizers: loading any folder or file that holds one, encoding documents, and training the usual kind.

The kinds: a tokenizer.json of any shape (`data.library`, and `data.encoder` where ours takes it), a SentencePiece
model (`data.pieces`). Trained here: a byte-level BPE; elsewhere: `data.like` and `data.pieces`. transformers is not
imported, which costs three seconds; its AutoTokenizer loads the folders written here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import queue
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from suite import _core
from suite.base.errors import TokenizerError
from suite.base.special import SpecialIds
from suite.base.store import write_json
from suite.data import bpe, encoder
from suite.data.library import Library
from suite.data.pieces import Pieces
from suite.data.texts import Texts

SPECIAL_TOKENS = ("<bos>", "<eos>", "<pad>")  # ids 0, 1, 2
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)  # every byte has a token, so every text can be encoded
MAX_VOCAB_SIZE = 1 << 24
NO_TEXT = "the corpus has no text to train a tokenizer on"
ROLES = ("bos", "eos", "pad")


class Tokenizer:
    """A tokenizer with <bos> and <eos>, and what turns texts into ids for it."""

    def __init__(self, library: Library | Pieces, special: SpecialIds, folder: Path | None) -> None:
        self.library = library
        self.special = special
        self.folder = folder  # or the file, of a SentencePiece model
        self.vocab_size = library.vocab_size  # one more than the largest id
        self._encoders: queue.SimpleQueue[_core.Encoder] = queue.SimpleQueue()  # of this tokenizer, for any thread

    @property
    def dtype(self) -> Any:
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of what decides the ids, keys sorted."""
        return hashlib.sha256(json.dumps(self.library.content, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def slow_because(self) -> str | None:
        """Why texts are encoded by a library, slowly; None when our own encoder takes this tokenizer."""
        return self.library.slow_because

    def stream(self, texts: Texts) -> np.ndarray:
        """The documents' part of the token stream: each one's ids and then <eos>. Returns [tokens] of `dtype`."""
        return self.reference_stream(texts) if self.slow_because else self.stream_and_lengths(texts)[0]

    def stream_and_lengths(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """The same by our own encoder, and how many tokens each document has, <eos> included: uint32 [documents]."""
        try:
            one = self._encoders.get_nowait()
        except queue.Empty:
            one = encoder.make(self.library.content, self.special.eos, self.dtype == np.uint32)
        try:
            ids, lengths = one.stream(texts.data, texts.starts, texts.stops)
            return np.frombuffer(ids, self.dtype), np.frombuffer(lengths, np.uint32)
        finally:
            self._encoders.put(one)

    def reference_stream(self, texts: Texts, batch_size: int = 50) -> np.ndarray:
        """The same by the library, so many documents in a call."""
        documents = list(texts.documents())
        pieces = [self._batch(documents[i : i + batch_size]) for i in range(0, len(documents), batch_size)]
        return np.concatenate(pieces) if pieces else np.empty(0, self.dtype)

    def _batch(self, documents: list[str]) -> np.ndarray:
        eos = self.special.eos
        pieces: list[int] = []
        try:
            for ids in self.library.encode(documents):
                pieces += ids
                pieces.append(eos)
        except TokenizerError as error:
            raise TokenizerError(f"{self.folder}: {error}") from None
        return np.array(pieces, dtype=self.dtype)

    def encode(self, text: str) -> list[int]:
        return self.library.encode([text])[0]

    def decode(self, ids: Iterable[int]) -> str:
        return self.library.decode(list(ids))

    def bytes_of_ids(self) -> list[bytes] | None:
        """The bytes of each id, b"" for special tokens; None when ids do not spell texts (WordPiece, say).

        Joined over a document's ids they are its text as the normaliser leaves it, behind one space where the
        tokenizer puts one. `spelled` gives the bytes to look for in them.
        """
        return self.library.bytes_of_ids()

    def spelled(self, text: str) -> bytes:
        """What the ids of a text spell inside a longer text: its bytes after the normaliser, no space before it."""
        return self.library.spelled(text)

    def copy_to(self, folder: Path) -> None:
        """Puts the tokenizer's files into another folder, so that it is found beside what it made."""
        assert self.folder is not None, "only a tokenizer that lies in a folder can be copied"
        folder.mkdir(parents=True, exist_ok=True)
        if folder.samefile(self.folder):
            return
        if self.folder.is_file():
            save(self, folder)
            return
        for name in self.library.files:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)


def is_there(path: Path) -> bool:
    """Whether `load` finds a tokenizer at `path`, be it a good one or not."""
    return path.is_file() or any((path / name).is_file() for name in (Library.files[0], Pieces.files[0]))


def load(path: Path) -> Tokenizer:
    """The tokenizer in a folder: its tokenizer.json, or else its tokenizer.model; or a SentencePiece model file.

    Raises TokenizerError when it is missing, unreadable, or lacks <bos> or <eos>.
    """
    if path.is_file() and path.suffix != ".model":
        raise TokenizerError(f"{path}: expected a folder with a tokenizer.json, or a SentencePiece .model file")
    if not is_there(path):
        raise TokenizerError(
            f"{path}: no tokenizer.json or tokenizer.model there; `suite train-tokenizer --out-dir {path}` makes one"
        )
    if path.is_file():
        library, names = Pieces.read(path), {}
    else:
        names = _special_names(path)
        file = path / Library.files[0]
        library = Library.read(file) if file.is_file() else Pieces.read(path / Pieces.files[0])
    ids = dict(library.special_ids)
    for role, name in names.items():
        if (found := library.id_of(name)) is not None:
            ids[role] = found
    for role in ("bos", "eos"):
        if role not in ids:
            raise TokenizerError(
                f"{path}: the tokenizer has no {role} token; rows begin with <bos> and documents end with <eos>, "
                f'so set "{role}_token" in tokenizer_config.json to a token of its vocabulary'
            )
    return Tokenizer(library, SpecialIds(ids["bos"], ids["eos"], ids.get("pad")), path)


def _special_names(folder: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        config = read_config(folder / file)
        for role in ROLES:
            token = config.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                names[role] = token
    return names


def read_config(path: Path) -> dict[str, Any]:
    """A JSON table beside a tokenizer; empty when there is none. Raises TokenizerError for anything else."""
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise TokenizerError(f"{path}: holds a {type(config).__name__}, expected a table")
    return config


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a folder that AutoTokenizer.from_pretrained loads."""
    folder.mkdir(parents=True, exist_ok=True)
    special, library = tokenizer.special, tokenizer.library
    ids = {"bos": special.bos, "eos": special.eos, "pad": special.pad, "unk": library.unknown}
    config = {
        "tokenizer_class": library.transformers_class,
        **{f"{role}_token": library.token_of(number) for role, number in ids.items() if number is not None},
        "clean_up_tokenization_spaces": False,
    }
    for name in {*Library.files, *Pieces.files}:  # of a tokenizer that was there before, perhaps of another kind
        (folder / name).unlink(missing_ok=True)
    write_json(folder / "tokenizer_config.json", config)
    library.write(folder)  # last: a folder without it is no tokenizer


def train(
    texts: Iterable[Texts], vocab_size: int, advance: Callable[[float, str], None] = lambda megabytes, note: None
) -> Tokenizer:
    """A GPT-2 style byte-level BPE: reversible, no normaliser, <bos>=0 <eos>=1 <pad>=2, minimum frequency 2.

    The result may have fewer tokens than asked for when the text has too few repeated pairs. `advance` hears of every
    text read and, as a note, of the merges made. Memory holds the distinct words, whatever the length of the text.
    Raises TokenizerError for a vocabulary too small to hold every byte, and for a corpus without text.
    """
    _check_vocab_size(vocab_size)
    words, num_bytes = _core.WordCounts(), 0
    for some in texts:
        words.add(*some)
        num_bytes += some.num_bytes
        advance(some.num_bytes / 1e6, "")
    if not num_bytes:
        raise TokenizerError(NO_TEXT)
    # As the library numbers them: the special tokens, then the bytes in the order of their characters.
    tokens = [*SPECIAL_TOKENS, *sorted(bpe.byte_characters())]
    vocab = {token: number for number, token in enumerate(tokens)}
    trainer = _core.Trainer(words, [vocab[char] for char in bpe.byte_characters()], vocab_size)
    merges = bpe.merged(trainer, tokens, advance)
    backend = bpe.byte_level({token: number for number, token in enumerate(tokens)}, merges)
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(Library(backend), SpecialIds(0, 1, 2), None)


def reference_train(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """The same by the tokenizers library, which is the reference: tests/test_bpe_training.py."""
    from tokenizers import pre_tokenizers, trainers

    _check_vocab_size(vocab_size)
    backend = bpe.byte_level({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    characters = 0

    def counted() -> Iterator[str]:
        nonlocal characters
        for document in documents:
            characters += len(document)
            yield document

    backend.train_from_iterator(counted(), trainer)
    if not characters:
        raise TokenizerError(NO_TEXT)
    return Tokenizer(Library(backend), SpecialIds(0, 1, 2), None)  # the trainer numbers the special tokens first


def _check_vocab_size(vocab_size: int) -> None:
    if vocab_size < MIN_VOCAB_SIZE:
        raise TokenizerError(
            f"vocab_size is {vocab_size}; {MIN_VOCAB_SIZE} is the least: 256 bytes and {', '.join(SPECIAL_TOKENS)}"
        )
    if vocab_size > MAX_VOCAB_SIZE:
        raise TokenizerError(f"vocab_size is {vocab_size}; {MAX_VOCAB_SIZE:,} is the most")
