"""What a corpus is, key by key: sources, the tokenizer trained on them, the tokens made of them.

Frozen data, no clock and no environment in it. The doors' flags are one more layer over the files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from suite.base.config import Section, load_layers, merge, validate
from suite.base.errors import ConfigError, SourceError
from suite.base.store import root_of
from suite.data import mix
from suite.data.mix import Mixture
from suite.data.source import Source, TextSource
from suite.data.template import Template

TOKENIZER = "tokenizer"  # a member's [splits] may say what the tokenizer is trained on, where it has other names


def _split(text: str) -> str:
    return _checked(mix.parse, text) if text else text


def _template(text: str) -> str:
    return _checked(Template.parse, text)


def _separator(text: str) -> str:
    return _checked(lambda text: Source("", separator=text), text)


def _checked(parse: Callable[[str], Any], text: str) -> str:
    try:
        parse(text)
    except SourceError as error:
        raise ValueError(str(error)) from None
    return text


_SPLIT_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)

Text = Annotated[str, Field(min_length=1)]
SplitExpression = Annotated[str, AfterValidator(_split)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]


class SourceConfig(Section):
    """Where text comes from."""

    dataset: Text | None = None  # stories:N, a file, a folder, or a dataset of the Hub
    config: str | None = None  # of a dataset that has several
    feature: Text = "text"  # the text column
    template: Annotated[str, AfterValidator(_template)] | None = None  # several columns as one text
    separator: Annotated[str, AfterValidator(_separator)] | None = None  # between documents of a txt file
    errors: Literal["strict", "replace"] = "strict"
    splits: dict[str, SplitExpression] = Field(default={})  # where this source has other splits than [splits] says

    @model_validator(mode="after")
    def _one_text(self) -> SourceConfig:
        if {"feature", "template"} <= self.model_fields_set:
            raise ValueError("give one of feature or template")
        return self


class MemberConfig(SourceConfig):
    """A source in a mixture; what it does not say is as [source] says."""

    weight: Annotated[float, Field(ge=0, le=1000)] | None = None  # how many times each document is read
    share: Annotated[float, Field(gt=0, le=1)] | None = None  # of the mixture's text

    @model_validator(mode="after")
    def _one_measure(self) -> MemberConfig:
        if self.weight is not None and self.share is not None:
            raise ValueError("give one of weight or share")
        return self


class TokenizerConfig(Section):
    folder: Text | None = None  # under root; None: tokenizers/<name>
    vocab_size: PositiveInt | None = None  # of one that is trained when the folder has none; None: it must be there
    kind: str = "byte-level-bpe"  # one of data/kinds.py
    reference_tokenizer: Text | None = None  # a tokenizer to follow in all but its vocabulary
    num_samples: PositiveInt | None = None  # train on the first so many documents
    character_coverage: Annotated[float, Field(gt=0, le=1)] = 0.9995  # not for byte-level-bpe
    byte_fallback: bool = True  # a token for each byte; for sentencepiece kinds
    repo: Text | None = None  # OWNER/NAME of the model repo that it is published as, when it is trained
    public: bool = False  # of a repo that is made
    split: SplitExpression | None = None  # what it is trained on; None: what the first of [splits] is made of


class TokensConfig(Section):
    folder: Text | None = None  # under root; None: tokens/<name>
    repo: Text | None = None  # OWNER/NAME of the dataset repo that they are published as
    public: bool = False  # of a repo that is made
    seq_len: Annotated[int, Field(ge=2, le=2**24)] = 512
    overlap: NonNegativeInt = 0
    chunk_size: PositiveInt = 200_000  # rows in a shard
    batch_size: PositiveInt = 50  # documents in a call of the tokenizers library
    layout: Literal["stream", "documents", "chat"] = "stream"  # chat: conversations, one per row
    chat_template: Text = "plain"  # one of data/chat.py's, or a text like them
    deduplicate: bool = False  # of equal documents in a split, the first stays
    block_bytes: PositiveInt | None = None  # None: 8 MiB, on Ray 64


class CorpusConfig(Section):
    """Text, the tokenizer trained on it, the tokens made of it."""

    name: Name | None = None
    root: str | None = None  # None: $SUITE_ROOT, or the current folder
    executor: Literal["auto", "local", "ray"] = "auto"
    num_workers: NonNegativeInt = 0  # 0: as many as there are cores
    source: SourceConfig = SourceConfig()
    mixture: dict[Name, MemberConfig] = Field(default={})
    max_epochs: PositiveFloat = 1.0  # with shares: how often a document may be read
    splits: dict[str, SplitExpression] = Field(default={"train": "train"})  # written -> what it is made of
    tokenizer: TokenizerConfig = TokenizerConfig()
    tokens: TokensConfig = TokensConfig()

    @model_validator(mode="after")
    def _is_whole(self) -> CorpusConfig:
        if not self.splits or TOKENIZER in self.splits:
            raise ValueError(f"splits: say what is written, such as train; {TOKENIZER!r} is no name for it")
        for name in self.splits:
            if not _SPLIT_NAME.fullmatch(name):  # a file's name begins with it
                raise ValueError(
                    f"split name {name!r}: letters, digits, '_', '-' and '.', beginning with one of the first"
                )
        for name, member in self.members().items():
            if member.dataset is None:
                raise ValueError(f"{f'mixture.{name}' if name else 'source'}.dataset: missing; say where the text is")
        shares = [member.share for member in self.mixture.values() if member.share is not None]
        if shares and len(shares) < len(self.mixture):
            raise ValueError("mixture: one member has a share, so every member needs one")
        if shares and abs(sum(shares) - 1) > 1e-6:
            raise ValueError(f"mixture: the shares add up to {sum(shares):g}, not to 1")
        weights = [self.max_epochs] if shares else [member.weight or 0 for member in self.mixture.values()]
        if self.tokens.deduplicate and max(weights, default=1) > 1:
            raise ValueError("tokens.deduplicate: it would take out again what a weight above 1 repeats")
        return self

    def members(self) -> dict[str, MemberConfig]:
        """By name, with what [source] says for all of them; a source that is no mixture has the name ''."""
        base = self.source.model_dump(exclude_unset=True)
        found = {}
        for name, member in (self.mixture or {"": MemberConfig()}).items():
            own = member.model_dump(exclude_unset=True)
            other = {"feature": "template", "template": "feature"}  # one takes the place of the other
            of_all = {key: value for key, value in base.items() if other.get(key) not in own}
            splits = {**base.get("splits", {}), **own.get("splits", {})}
            found[name] = MemberConfig(**{**of_all, **own, "splits": splits})
        return found

    def text_source(self, split: str, size: Callable[[str, TextSource], int]) -> TextSource:
        """What a split is made of, or, for TOKENIZER, what the tokenizer is trained on.

        `size(name, source)` counts the bytes of a member's text; it is asked where the config says shares.
        """
        first = next(iter(self.splits.values()))
        expression = self.splits[split] if split != TOKENIZER else self.tokenizer.split or first
        read = {
            name: (member, _source(member, wanted, self.tokens.layout == "chat"))
            for name, member in self.members().items()
            if (wanted := member.splits.get(split, expression))
        }
        if not read:
            raise ConfigError(f"splits.{split}: no source has a part in it")
        if not self.mixture:
            return read[""][1]
        weights = [1.0 if member.weight is None else member.weight for member, _ in read.values()]
        shares = [member.share for member, _ in read.values() if member.share is not None]
        if shares:
            sizes = [size(name, source) for name, (_, source) in read.items()]
            if empty := [name for name, found in zip(read, sizes, strict=True) if not found]:
                raise SourceError(f"mixture.{empty[0]}: split {split!r} has no text, so it cannot have a share")
            weights = mix.weights_of(shares, sizes, self.max_epochs)
        parts = zip(read.items(), weights, strict=True)
        members = [part for (name, (_, source)), weight in parts for part in mix.weighed(source, weight, name)]
        return Mixture(tuple(members), expression)

    @model_validator(mode="after")
    def _conversations_have_no_column(self) -> CorpusConfig:
        asked = [key for member in self.members().values() for key in {"feature", "template"} & member.model_fields_set]
        if self.tokens.layout == "chat" and (asked or self.tokens.deduplicate or self.tokens.overlap):
            raise ValueError(
                "tokens.layout 'chat' reads messages, or prompt and completion, whole: without feature, template, "
                "deduplicate or overlap"
            )
        return self

    @property
    def tokenizer_folder(self) -> Path:
        return self._folder(self.tokenizer.folder, "tokenizer.folder", "tokenizers")

    @property
    def tokens_folder(self) -> Path:
        return self._folder(self.tokens.folder, "tokens.folder", "tokens")

    def _folder(self, given: str | None, key: str, kind: str) -> Path:
        if given is None and self.name is None:
            raise ConfigError(f"{key}: missing; give it, or a name, after which the folder is called {kind}/NAME")
        return root_of(self.root) / (given or f"{kind}/{self.name}")


def _source(member: MemberConfig, split: str, chat: bool) -> TextSource:
    assert member.dataset is not None, "checked when the config was read"
    return mix.text_source(
        member.dataset,
        split,
        feature=member.feature,
        template=member.template,
        separator=member.separator,
        errors=member.errors,
        config=member.config or None,  # `source.config=` takes it back
        chat=chat,
    )


def load_corpus(arguments: Sequence[str], flags: Mapping[str, Any]) -> CorpusConfig:
    """TOML files and key=value overrides, then flags by the key that each stands for; None was not given.

    Raises ConfigError with a line for every mistake.
    """
    overrides = [one for one in arguments if "=" in one and not one.endswith(".toml")]
    files = [Path(one) for one in arguments if one not in overrides]
    table, origins = load_layers(files, overrides)
    layer: dict[str, Any] = {}
    for key, value in flags.items():
        section, _, name = key.rpartition(".")
        if value is not None:
            (layer.setdefault(section, {}) if section else layer)[name] = value
    mixture = table.get("mixture") if isinstance(table.get("mixture"), dict) else {}
    members = {name: member for name, member in (mixture or {}).items() if isinstance(member, dict)}
    for name, member in members.items():
        if clash := sorted(layer.get("source", {}).keys() & member.keys()):
            raise ConfigError(
                f"mixture.{name}.{clash[0]}: the flag does not reach it; say mixture.{name}.{clash[0]}=..."
            )
    if "splits" in layer:  # the flag says all that is written
        for part in (table, table.get("source"), *members.values()):
            if isinstance(part, dict):
                part.pop("splits", None)
    merge(table, layer, (), "", origins)
    return validate(CorpusConfig, table, origins)
