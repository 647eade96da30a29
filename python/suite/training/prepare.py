"""Tokenizer and tokens of a config: made from its source where they are absent, checked where they are there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from suite.base.errors import ConfigError, TokensError
from suite.base.progress import bar
from suite.base.store import MANIFEST, locked
from suite.data import pack, shards, tokenizer
from suite.data.chat import TEMPLATES, rendered
from suite.data.encode import Shape
from suite.data.mix import text_source, texts_of
from suite.data.pack import Work
from suite.data.shards import Tokens
from suite.data.source import DEFAULT_BLOCK_BYTES, TextSource
from suite.data.tokenizer import Tokenizer
from suite.training import pretrained
from suite.training.config import RunConfig

_COMMIT = re.compile(r" commit=[0-9a-f]{40}\b")
Say = Callable[[str], None]


def tokenizer_folder(config: RunConfig) -> Path:
    """Where the run's tokenizer lies: as configured, or beside the tokens that it made."""
    data = config.data
    return config.path(data.tokenizer) if data.tokenizer else config.path(data.tokens) / "tokenizer"


def chat_template(config: RunConfig) -> str | None:
    """What the run's conversations are written by, None when its rows are texts."""
    return config.data.chat_template if config.data.layout == "chat" else None


def _slices(config: RunConfig) -> dict[str, str]:
    """Which part of the source each split of the tokens is made from."""
    return {"train": config.data.split, "validation": config.data.validation_split}


def _source(config: RunConfig, split: str) -> TextSource:
    data = config.data
    assert data.source is not None
    chat = data.layout == "chat"
    return text_source(data.source, split, feature=data.feature, separator=data.separator, chat=chat)


def missing_splits(config: RunConfig) -> list[str]:
    """The splits that are still to be made. Raises TokensError when one that is there was made from other text than
    the config says, ConfigError when one is missing and there is no source to make it from."""
    data = config.data
    folder = config.path(data.tokens)
    sealed = shards.read(folder) if (folder / MANIFEST).is_file() else None
    slices = _slices(config)
    missing = [name for name in slices if sealed is None or name not in sealed.splits]
    if sealed is not None and data.source is not None:
        for name in slices.keys() - missing:
            _check_source(sealed, name, _source(config, slices[name]))
    if missing and data.source is None:
        if sealed is None:
            shards.read(folder)  # says what is wrong with the folder
        raise ConfigError(f"data.tokens: {folder} has no split {missing[0]!r}; tokenize it, or set data.source")
    return missing


def ensure(config: RunConfig, work: Work, say: Say, block_bytes: int = DEFAULT_BLOCK_BYTES) -> None:
    """Makes what the run needs and is not there. Raises ConfigError when it is absent and there is no source."""
    data = config.data
    folder = config.path(data.tokens)
    missing = missing_splits(config)
    if not missing:
        return
    assert data.source is not None
    home = tokenizer_folder(config)
    with locked(home):
        if not tokenizer.is_there(home) and config.model.init_from is not None:
            say(f"the tokenizer of {config.model.init_from}")
            tokenizer.load(pretrained.folder_of(config)).copy_to(home)
        elif not tokenizer.is_there(home):
            say(f"training a tokenizer of {data.vocab_size} tokens on {data.source} {data.tokenizer_split}")
            texts = texts_of(_source(config, data.tokenizer_split))
            with bar("training on", "MB") as advance:
                tokenizer.save(tokenizer.train(texts, data.vocab_size, advance), home)
    encoder = tokenizer.load(home)
    chat = chat_template(config)
    for name in missing:
        source = _source(config, _slices(config)[name])
        say(f"tokenizing {data.source} {source.split}")
        with bar("tokenizing", "blocks") as advance:
            tokens, _ = pack.tokenize(
                source,
                encoder,
                folder,
                Shape(data.seq_len, layout="documents" if chat else data.layout),
                work,
                name=name,
                rendered=rendered(chat),
                block_bytes=block_bytes,
                on_progress=lambda now: advance(1, str(now), now.blocks_total),
            )
        entry = tokens.split(name)
        say(f"{folder}: {name}: {entry.documents:,} documents, {entry.tokens:,} tokens, {entry.rows:,} rows")


def _check_source(tokens: Tokens, name: str, source: TextSource) -> None:
    """Raises TokensError when a split that is there was made from other text than the config says.

    The same words are enough, so that a node without a network trains on tokens that are there, whatever the commit
    of a dataset on the Hub; where they differ (another path to the same file) the text itself decides.
    """
    entry = tokens.split(name)
    same_words = _COMMIT.sub("", entry.source) == _COMMIT.sub("", source.identity()) and entry.slice == source.split
    if same_words or entry.fingerprint == source.fingerprint():
        return
    raise TokensError(
        f"{tokens.folder}: split {name!r} was made from {entry.source} {entry.slice}, the config says "
        f"{source.identity()} {source.split}: name another data.tokens folder, or leave out data.source"
    )


def opened(config: RunConfig) -> tuple[Tokens, Tokenizer]:
    """The run's tokens and tokenizer. Raises TokensError when they do not fit each other or the config."""
    tokens = shards.read(config.path(config.data.tokens))
    encoder = tokenizer.load(tokenizer_folder(config))
    tokens.check_tokenizer(encoder)
    pretrained.check_vocabulary(config, encoder)
    if tokens.seq_len != config.data.seq_len:
        raise TokensError(f"{tokens.folder}: rows of {tokens.seq_len} tokens, data.seq_len is {config.data.seq_len}")
    if config.data.isolate and tokens.layout == "documents":
        raise TokensError(f"{tokens.folder}: a document in each row, none to isolate; leave out data.isolate")
    for name in ("train", *config.eval.splits):
        if (tokens.split(name).chat is None) == (config.data.layout == "chat"):
            holds = "texts" if tokens.split(name).chat is None else "conversations"
            raise TokensError(
                f"{tokens.folder}: split {name!r} holds {holds}, data.layout is {config.data.layout!r}: with 'chat' "
                "answers alone are counted, so it is said if and only if the tokens are conversations"
            )
    asked, entry = chat_template(config), tokens.split("train").chat
    if asked and entry and config.data.source is not None and TEMPLATES.get(asked, asked) != entry.template:
        raise TokensError(
            f"{tokens.folder}: was written by the chat template {entry.template!r}, data.chat_template is {asked!r}; "
            "name another data.tokens folder"
        )
    vocab_size = config.model.vocab_size
    if vocab_size is not None and vocab_size < tokens.vocab_size:
        raise TokensError(
            f"{tokens.folder}: ids up to {tokens.vocab_size - 1}, beyond model.vocab_size {vocab_size}; "
            f"it must be {tokens.vocab_size} or more"
            + (", which model.resize_embeddings = true makes it" if config.model.init_from else "")
        )
    for name in ("train", *config.eval.splits):
        if not tokens.split(name).rows:
            raise TokensError(
                f"{tokens.folder}: split {name!r} has no whole row of {tokens.seq_len} tokens; it needs more text"
            )
    return tokens, encoder
