"""Tokenizers: training a byte-level BPE, loading any folder that holds a tokenizer.json, encoding documents.

`tokenizers` alone is used here: transformers costs three seconds to import, and only a user's own script needs its
AutoTokenizer, which loads the folders written here.
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
from suite.data import encoder, spelling
from suite.data.texts import Texts

SPECIAL_TOKENS = ("<bos>", "<eos>", "<pad>")  # ids 0, 1, 2
MIN_VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)  # every byte has a token, so every text can be encoded
MAX_VOCAB_SIZE = 1 << 24
NO_TEXT = "the corpus has no text to train a tokenizer on"
MERGES_PER_CALL = 64  # between two words on progress
NAMES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


class Tokenizer:
    """A fast tokenizer with <bos> and <eos>. `vocab_size` is one more than the largest id."""

    def __init__(self, backend: Any, special: SpecialIds, folder: Path | None) -> None:
        self.backend = backend
        self.special = special
        self.folder = folder
        self._encoders: queue.SimpleQueue[_core.Encoder] = queue.SimpleQueue()  # of this tokenizer, for any thread
        self.vocab_size: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        backend.no_truncation()
        backend.no_padding()
        # The string "<eos>" in a document is five characters of somebody's text, not the end of it.
        backend.encode_special_tokens = True

    @property
    def dtype(self) -> Any:
        return np.uint16 if self.vocab_size <= 1 << 16 else np.uint32

    @functools.cached_property
    def content(self) -> dict[str, Any]:
        """What decides the ids: tokenizer.json without padding and truncation."""
        content = json.loads(self.backend.to_str())
        content.pop("padding", None)
        content.pop("truncation", None)
        return content

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the content, keys sorted."""
        return hashlib.sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def slow_because(self) -> str | None:
        """Why texts are encoded by the tokenizers library; None when our own encoder takes this tokenizer."""
        return encoder.obstacle(self.content)

    def stream(self, texts: Texts) -> np.ndarray:
        """The documents' part of the token stream: each one's ids and then <eos>. Returns [tokens] of `dtype`."""
        if self.slow_because:
            return self.reference_stream(texts)
        try:
            one = self._encoders.get_nowait()
        except queue.Empty:
            one = encoder.make(self.content, self.special.eos, self.dtype == np.uint32)
        try:
            return np.frombuffer(one.stream(texts.data, texts.starts, texts.stops), self.dtype)
        finally:
            self._encoders.put(one)

    def reference_stream(self, texts: Texts, batch_size: int = 50) -> np.ndarray:
        """The same by the tokenizers library, so many documents in a call."""
        documents = list(texts.documents())
        pieces = [self._batch(documents[i : i + batch_size]) for i in range(0, len(documents), batch_size)]
        return np.concatenate(pieces) if pieces else np.empty(0, self.dtype)

    def _batch(self, documents: list[str]) -> np.ndarray:
        eos = self.special.eos
        pieces: list[int] = []
        try:
            encodings = self.backend.encode_batch_fast(documents, add_special_tokens=False)
        except Exception as error:  # the library raises bare Exception
            raise TokenizerError(f"{self.folder}: the tokenizer cannot encode this text ({error})") from None
        for encoding in encodings:
            pieces += encoding.ids
            pieces.append(eos)
        return np.array(pieces, dtype=self.dtype)

    def encode(self, text: str) -> list[int]:
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        return self.backend.decode(list(ids), skip_special_tokens=True)

    def bytes_of_ids(self) -> list[bytes] | None:
        """The bytes of each id, b"" for special tokens; None when ids do not spell texts (WordPiece, say).

        Joined over a document's ids they are its text as the normaliser leaves it, behind one space where the
        tokenizer puts one. `spelled` gives the bytes to look for in them.
        """
        return spelling.bytes_of_ids(self.content, self.vocab_size)

    def spelled(self, text: str) -> bytes:
        """What the ids of a text spell inside a longer text: its bytes after the normaliser, no space before it."""
        return spelling.normalized(self.content, self.backend.normalizer, text)

    def copy_to(self, folder: Path) -> None:
        """Puts the tokenizer's files into another folder, so that it is found beside what it made."""
        assert self.folder is not None, "only a tokenizer that lies in a folder can be copied"
        folder.mkdir(parents=True, exist_ok=True)
        if folder.samefile(self.folder):
            return
        for name in NAMES:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, folder / name)


def load(folder: Path) -> Tokenizer:
    """The tokenizer in a folder. Raises TokenizerError when it is missing, unreadable, or lacks <bos> or <eos>."""
    import tokenizers

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise TokenizerError(f"{folder}: no tokenizer.json there; `suite train-tokenizer --out-dir {folder}` makes one")
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(f"{file}: not a tokenizer ({error})") from None
    names = _special_names(folder)
    ids: dict[str, int] = {}
    for role, name in names.items():
        if (found := backend.token_to_id(name)) is not None:
            ids[role] = found
    for role in ("bos", "eos"):
        if role not in ids:
            raise TokenizerError(
                f"{folder}: the tokenizer has no {role} token; rows begin with <bos> and documents end with <eos>, "
                f'so set "{role}_token" in tokenizer_config.json to a token of its vocabulary'
            )
    return Tokenizer(backend, SpecialIds(ids["bos"], ids["eos"], ids.get("pad")), folder)


def _special_names(folder: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / file).is_file():
            try:
                config = json.loads((folder / file).read_text(encoding="utf-8"))
            except ValueError as error:
                raise TokenizerError(f"{folder / file}: not valid JSON ({error})") from None
            if not isinstance(config, dict):
                raise TokenizerError(f"{folder / file}: holds a {type(config).__name__}, expected a table")
            for role in ("bos", "eos", "pad"):
                token = config.get(f"{role}_token")
                token = token.get("content") if isinstance(token, dict) else token
                if isinstance(token, str):
                    names[role] = token
    return names


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
    tokens = [*SPECIAL_TOKENS, *sorted(encoder.byte_characters())]
    vocab = {token: number for number, token in enumerate(tokens)}
    trainer = _core.Trainer(words, [vocab[char] for char in encoder.byte_characters()], vocab_size)
    num_merges = 0
    while made := trainer.merge(MERGES_PER_CALL):
        num_merges += made
        advance(0, f"{num_merges:,} merges")
    merges: list[tuple[str, str]] = []
    for left, right in trainer.merges():
        merges.append((tokens[left], tokens[right]))
        tokens.append(tokens[left] + tokens[right])
    backend = _byte_level({token: number for number, token in enumerate(tokens)}, merges)
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(backend, SpecialIds(0, 1, 2), None)


def reference_train(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """The same by the tokenizers library, which is the reference: tests/test_bpe_training.py."""
    from tokenizers import pre_tokenizers, trainers

    _check_vocab_size(vocab_size)
    backend = _byte_level({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    seen = _Counted(documents)
    backend.train_from_iterator(seen, trainer)
    if not seen.characters:
        raise TokenizerError(NO_TEXT)
    return Tokenizer(backend, SpecialIds(0, 1, 2), None)  # the trainer numbers the special tokens first


def _byte_level(vocab: dict[str, int], merges: list[tuple[str, str]]) -> Any:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, processors

    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def _check_vocab_size(vocab_size: int) -> None:
    if vocab_size < MIN_VOCAB_SIZE:
        raise TokenizerError(
            f"vocab_size is {vocab_size}; {MIN_VOCAB_SIZE} is the least: 256 bytes and {', '.join(SPECIAL_TOKENS)}"
        )
    if vocab_size > MAX_VOCAB_SIZE:
        raise TokenizerError(f"vocab_size is {vocab_size}; {MAX_VOCAB_SIZE:,} is the most")


class _Counted:
    def __init__(self, documents: Iterable[str]) -> None:
        self.documents = documents
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for document in self.documents:
            self.characters += len(document)
            yield document


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes a folder that AutoTokenizer.from_pretrained loads."""
    folder.mkdir(parents=True, exist_ok=True)
    bos, eos, pad = SPECIAL_TOKENS
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad,
        "clean_up_tokenization_spaces": False,
    }
    backend_json = json.loads(tokenizer.backend.to_str())
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "tokenizer.json", backend_json)  # last: a folder without it is no tokenizer
