"""Training a tokenizer of any kind, and making another of one that is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from suite.base.errors import TokenizerError
from suite.base.special import SpecialIds
from suite.base.store import write_json
from suite.data import convert, like, sentences, tokenizer
from suite.data.library import Library
from suite.data.pieces import Pieces
from suite.data.texts import Texts
from suite.data.tokenizer import Tokenizer

KINDS = ("byte-level-bpe", "sentencepiece-unigram", "sentencepiece-bpe")
SAMPLE_DOCUMENTS = 200  # both encode them when a SentencePiece model is converted
SAMPLE_CHARACTERS = 4096  # of each

Advance = Callable[[float, str], None]


@dataclass(frozen=True)
class Recipe:
    """`kind` is one of KINDS; a reference, a folder with a tokenizer.json, is followed instead."""

    vocab_size: int
    kind: str = "byte-level-bpe"
    reference: Path | None = None
    num_samples: int | None = None  # the first documents; None: all
    character_coverage: float = 0.9995  # of all but byte-level-bpe
    byte_fallback: bool = True  # of the sentencepiece kinds; a reference says it itself

    def check(self) -> None:
        """Raises TokenizerError for what no kind can follow."""
        if self.kind not in KINDS:
            raise TokenizerError(f"--kind {self.kind}: expected {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        if self.reference is not None and self.kind != KINDS[0]:
            raise TokenizerError(
                f"--kind {self.kind} and --reference-tokenizer exclude each other: the reference says the kind"
            )
        if self.num_samples is not None and self.num_samples < 1:
            raise TokenizerError(f"--num-samples is {self.num_samples}; it must be 1 or more")
        if not 0 < self.character_coverage <= 1:
            raise TokenizerError(f"--character-coverage is {self.character_coverage}; expected a share, like 0.9995")


def train(texts: Iterable[Texts], recipe: Recipe, advance: Advance, say: Callable[[str], None]) -> Tokenizer:
    """Raises TokenizerError when it cannot be trained as asked. `say` hears what the user should know of the result."""
    recipe.check()
    if recipe.num_samples is not None:
        texts = first(texts, recipe.num_samples)
    if recipe.reference is not None:
        reference = tokenizer.load(recipe.reference)
        if not isinstance(reference.library, Library):
            raise TokenizerError(
                f"{recipe.reference}: no tokenizer.json; `suite convert-tokenizer` makes one of a model"
            )
        return like.train(texts, reference, recipe.vocab_size, recipe.character_coverage, advance)
    if recipe.kind == KINDS[0]:
        return tokenizer.train(texts, recipe.vocab_size, advance)
    sample: list[str] = []
    options = sentences.Options(recipe.vocab_size, recipe.character_coverage, recipe.byte_fallback)
    kind = recipe.kind.removeprefix("sentencepiece-")
    pieces, cut = sentences.train(_sampled(texts, sample), kind, options, advance)
    if cut:
        say(f"note: trained on the first {sentences.MAX_BYTES >> 20} MiB of text, which sentencepiece keeps in memory")
    return of_pieces(pieces, sample, say)


def of_pieces(pieces: Pieces, sample: Iterable[str], say: Callable[[str], None]) -> Tokenizer:
    """With a tokenizer.json when that gives the same ids; says so when it does not."""
    library, why = convert.converted(pieces, sample)
    if library is None:
        say(f"note: without a tokenizer.json, sentencepiece itself encodes: {why}")
    ids = pieces.special_ids
    return Tokenizer(library or pieces, SpecialIds(ids["bos"], ids["eos"], ids.get("pad")), None)


def adapt(path: Path, folder: Path, pad_token: str | None, say: Callable[[str], None]) -> Tokenizer:
    """Writes the tokenizer at `path` into another folder: a model also as tokenizer.json, and with a pad token.

    Texts keep their ids; the vocabulary grows by one, unless it has the token already. Raises TokenizerError for one
    that has a pad token, and when there is nothing to do.
    """
    one = tokenizer.load(path)
    if pad_token is not None and one.special.pad is not None:
        name = one.library.token_of(one.special.pad)
        raise TokenizerError(f"{path}: it has a pad token, {name!r} (id {one.special.pad})")
    if pad_token is None and isinstance(one.library, Library):
        raise TokenizerError(f"{path}: it has a tokenizer.json; nothing to do without --pad-token")
    if folder.exists() and path.exists() and folder.resolve() in (path.resolve(), path.resolve().parent):
        raise TokenizerError(f"{folder}: --out-dir is where the tokenizer lies; name another folder")
    library, pad = one.library, one.special.pad
    if pad_token is not None:
        pad = library.id_of(pad_token)
        if pad is None:
            library, pad = library.with_pad(pad_token), library.vocab_size
        elif pad not in library.reserved:
            raise TokenizerError(f"{path}: {pad_token!r} is a token that texts may have; name another --pad-token")
    if isinstance(library, Pieces):
        converted, why = convert.converted(library)
        if converted is None:
            say(f"note: without a tokenizer.json, sentencepiece itself encodes: {why}")
        library = converted or library
    made = Tokenizer(library, SpecialIds(one.special.bos, one.special.eos, pad), None)
    tokenizer.save(made, folder)
    if path.is_dir():  # what else its config says stays: chat templates, lengths, the class
        told = tokenizer.read_config(path / "tokenizer_config.json")
        if isinstance(library, Pieces) or isinstance(one.library, Pieces):
            told.pop("tokenizer_class", None)
        new = tokenizer.read_config(folder / "tokenizer_config.json")
        write_json(folder / "tokenizer_config.json", {**new, **told, **({"pad_token": pad_token} if pad_token else {})})
    return made


def first(texts: Iterable[Texts], num_documents: int) -> Iterator[Texts]:
    """The first so many documents."""
    for some in texts:
        if some.num_documents >= num_documents:
            yield Texts(some.data, some.starts[:num_documents], some.stops[:num_documents])
            return
        num_documents -= some.num_documents
        yield some


def _sampled(texts: Iterable[Texts], sample: list[str]) -> Iterator[Texts]:
    """The same texts; the first of the documents go into the sample."""
    for some in texts:
        if len(sample) < SAMPLE_DOCUMENTS:
            head = next(first([some], SAMPLE_DOCUMENTS - len(sample)))
            sample += [document[:SAMPLE_CHARACTERS] for document in head.documents()]
        yield some
