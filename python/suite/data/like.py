"""A BPE made like a reference tokenizer, of its own vocabulary: how TeenyTinyLlama makes one in the manner of Llama 2.

Normaliser, pre-tokeniser, decoder, post-processor, special tokens, byte fallback and <unk> are the reference's; the
characters and merges come from the text. The merges are those of our own trainer: of equally common pairs the one with
the lower ids first, so they depend on the text alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from suite import _core
from suite.base.errors import TokenizerError
from suite.base.special import SpecialIds
from suite.data import bpe, encoder, spelling
from suite.data.library import Library
from suite.data.texts import Texts
from suite.data.tokenizer import NO_TEXT, Tokenizer

PAD = "<pad>"  # for a reference that has none


def train(
    texts: Iterable[Texts],
    reference: Tokenizer,
    vocab_size: int,
    character_coverage: float = 0.9995,
    advance: Callable[[float, str], None] = lambda megabytes, note: None,
) -> Tokenizer:
    """Ids: the reference's special tokens in their order, <pad>, 256 bytes where it has them, characters, merges.

    Characters get a token of their own from the commonest on, until these make up `character_coverage` of the text; a
    byte-level vocabulary has all 256. No token reaches across a word's end, nor is one a special token's name. Where
    the reference divides no words (Llama 2), a word is spaces and what follows them in a line, as sentencepiece has it.
    Memory holds the distinct words. Raises TokenizerError for a reference that BPE cannot follow, for a vocabulary too
    small, and for a corpus without text.
    """
    assert isinstance(reference.library, Library)
    content, special = reference.library.content, _special_tokens(reference)
    words = _counted(texts, reference, advance)
    byte_level, fallback = spelling.is_byte_level(content), bool(content["model"].get("byte_fallback"))
    visible = None if byte_level else spelling.space(content)
    if byte_level:
        characters = sorted(encoder.byte_characters())
    else:
        if not fallback and reference.library.unknown is None:
            character_coverage = 1.0  # what has no token would vanish from texts
        characters = covered(words.characters(), character_coverage, without="\n" if fallback else "")
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    tokens = [*special, *bytes_]
    spaces = {" ": visible} if visible else {}
    characters.sort(key=lambda char: spaces.get(char, char))
    ids = {char: number for number, char in enumerate(characters, len(tokens))}
    tokens += [spaces.get(char, char) for char in characters]
    if vocab_size < len(tokens):
        parts = [
            f"{len(special)} special tokens",
            *(["256 bytes"] if fallback else []),
            f"{len(characters)} characters",
        ]
        raise TokenizerError(
            f"vocab_size is {vocab_size}; {len(tokens)} is the least: {', '.join(parts)}; "
            "--character-coverage sets how many characters"
        )
    if len(set(tokens)) < len(tokens):
        raise TokenizerError(f"{reference.folder}: a special token is a single character of the text, too")
    reserved = [*special, *bytes_]
    trainer = _core.Trainer.of_characters(words, ids, reserved, len(tokens), vocab_size)
    merges = bpe.merged(trainer, tokens, advance)
    made = Library.of(_content(content, special, tokens, merges))
    roles = {"bos": reference.special.bos, "eos": reference.special.eos, "pad": reference.special.pad}
    names = {role: PAD if number is None else reference.library.token_of(number) for role, number in roles.items()}
    return Tokenizer(made, SpecialIds(*(special.index(names[role]) for role in ("bos", "eos", "pad"))), None)


def covered(counts: Mapping[str, int], share: float, without: str) -> list[str]:
    """The commonest characters that make up `share` of a text; of equally common ones the lower first."""
    counts = {char: count for char, count in counts.items() if char not in without}
    needed = share * sum(counts.values())
    chosen, so_far = [], 0
    for char in sorted(counts, key=lambda char: (-counts[char], char)):
        if so_far >= needed:
            break
        chosen.append(char)
        so_far += counts[char]
    return chosen


def _special_tokens(reference: Tokenizer) -> list[str]:
    """In the order of their ids; <unk> and <pad> are among them."""
    library = reference.library
    assert isinstance(library, Library)
    content = library.content
    if content["model"]["type"] not in ("BPE", "Unigram"):
        raise TokenizerError(
            f"{reference.folder}: a {content['model']['type']} model cannot be a reference; expected BPE or Unigram"
        )
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if content["model"].get(key):
            raise TokenizerError(f"{reference.folder}: a model with {key} cannot be a reference")
    ids = {token["id"] for token in content["added_tokens"] if token["special"]}
    ids |= {reference.special.bos, reference.special.eos}
    ids |= {number for number in (reference.special.pad, library.unknown) if number is not None}
    names = [library.token_of(number) for number in sorted(ids)]
    return names if reference.special.pad is not None or PAD in names else [*names, PAD]


def _counted(
    texts: Iterable[Texts], reference: Tokenizer, advance: Callable[[float, str], None]
) -> _core.CharacterWords:
    library = reference.library
    assert isinstance(library, Library)
    content, backend, words, num_bytes = library.content, library.backend, _core.CharacterWords(), 0
    steps, normal = list(spelling.steps(content["pre_tokenizer"])), list(spelling.steps(content["normalizer"]))
    visible = spelling.space(content)
    spaced = visible and all(step["type"] == "Metaspace" for step in steps) and len(steps) < 2
    if not spaced and not steps:
        raise TokenizerError(f"{reference.folder}: it divides no words (no pre_tokenizer), so it cannot be a reference")
    # Prepending and replacing spaces is done while words are counted; all else by the library, slowly.
    plain = all(step["type"] in ("Prepend", "Replace") for step in normal) and len(normal) <= 2 and bool(visible)
    plain = plain and all(step.get("prepend", visible) == step.get("content", visible) == visible for step in normal)
    prepends = plain and any(step["type"] == "Prepend" for step in normal)
    schemes = {"never": "never", "always": "unless there", "first": "unless there"}
    prefix = schemes[steps[0]["prepend_scheme"]] if spaced and steps else "never"
    runs = not steps or not steps[0].get("split", True)
    for some in texts:
        num_bytes += some.num_bytes
        if not plain and normal:
            texts_of = (backend.normalizer.normalize_str(document) for document in some.documents())
            normalized = Texts.of(list(texts_of))
        else:
            normalized = some
        if spaced:
            start = "always" if prepends else prefix
            words.add_texts(*normalized, visible=visible or "", prefix=start, runs=runs)
        else:
            counts: Counter[str] = Counter()
            for document in normalized.documents():
                counts.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(document))
            for word, count in counts.items():
                words.add(word, count)
        advance(some.num_bytes / 1e6, "")
    if not num_bytes:
        raise TokenizerError(NO_TEXT)
    return words


def _content(
    reference: Mapping[str, Any], special: list[str], tokens: list[str], merges: list[tuple[str, str]]
) -> dict[str, Any]:
    """The tokenizer.json."""
    model, vocab = reference["model"], {token: number for number, token in enumerate(tokens)}
    unknown = model.get("unk_token")
    if model["type"] == "Unigram" and model["unk_id"] is not None:
        unknown = model["vocab"][model["unk_id"]][0]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": number, "content": token, **flags} for number, token in enumerate(special)],
        "normalizer": reference["normalizer"],
        "pre_tokenizer": reference["pre_tokenizer"],
        "post_processor": _renumbered(reference["post_processor"], vocab),
        "decoder": reference["decoder"],
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": model.get("fuse_unk", model["type"] == "Unigram"),
            "byte_fallback": bool(model.get("byte_fallback")),
            "ignore_merges": model.get("ignore_merges", False),
            "vocab": vocab,
            "merges": merges,
        },
    }


def _renumbered(part: Any, vocab: Mapping[str, int]) -> Any:
    """A post-processor with the special tokens' new ids."""
    if isinstance(part, list):
        return [_renumbered(one, vocab) for one in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "TemplateProcessing":
        special = {
            name: {**one, "ids": [vocab[token] for token in one["tokens"]]}
            for name, one in part["special_tokens"].items()
        }
        return {**part, "special_tokens": special}
    if part.get("type") in ("BertProcessing", "RobertaProcessing"):
        return {**part, **{key: [part[key][0], vocab[part[key][0]]] for key in ("sep", "cls")}}
    return {key: _renumbered(one, vocab) for key, one in part.items()}
