"""Training a SentencePiece model, unigram or BPE, by the sentencepiece package."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from suite.base.errors import TokenizerError
from suite.data.pieces import Pieces, sentencepiece, short
from suite.data.texts import Texts
from suite.data.tokenizer import NO_TEXT

KINDS = ("unigram", "bpe")
# The package keeps the text, some 10 times over for unigram, so this bounds its memory whatever the corpus.
MAX_BYTES = 256 << 20
# Longer sentences are not read by the package, without a word.
SENTENCE_BYTES = 4096
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")  # ids 0, 1, 2, 3


@dataclass(frozen=True)
class Options:
    vocab_size: int
    character_coverage: float = 0.9995  # share of the text's characters that get a token of their own
    byte_fallback: bool = True  # a token for each byte: no text has an unknown token
    max_bytes: int = MAX_BYTES


def train(
    texts: Iterable[Texts],
    kind: str,
    options: Options,
    advance: Callable[[float, str], None] = lambda megabytes, note: None,
) -> tuple[Pieces, bool]:
    """A model of `kind`, whose texts come back as they were: no normaliser, no space is dropped.

    Its sentences are the documents' lines, long ones in parts, up to `max_bytes` of them; the second result is whether
    there were more. One thread trains: two would give other scores in the last digits, and with them other pieces.
    Raises TokenizerError for a vocabulary too small, and for a corpus without text.
    """
    package, out, sentences = sentencepiece(), io.BytesIO(), _Sentences(texts, options.max_bytes, advance)
    try:
        package.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=out,
            model_type=kind,
            vocab_size=options.vocab_size,
            hard_vocab_limit=False,
            character_coverage=options.character_coverage,
            byte_fallback=options.byte_fallback,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=SENTENCE_BYTES,
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            num_threads=1,
            minloglevel=3,
        )
    except (RuntimeError, SystemError) as error:
        if sentences.failure is not None:  # the package makes text of what the iterator raised
            raise sentences.failure from None
        if not sentences.num_bytes:
            raise TokenizerError(NO_TEXT) from None
        raise TokenizerError(f"sentencepiece cannot train this: {short(error)}") from None
    return Pieces(out.getvalue()), sentences.cut


class _Sentences:
    """Lines, at most SENTENCE_BYTES each. Remembers what went wrong while it was read from within the package."""

    def __init__(self, texts: Iterable[Texts], max_bytes: int, advance: Callable[[float, str], None]) -> None:
        self.texts, self.max_bytes, self.advance = texts, max_bytes, advance
        self.num_bytes = 0
        self.cut = False
        self.failure: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._sentences()
            self.advance(0, "training")
        except BaseException as error:
            self.failure = error
            raise

    def _sentences(self) -> Iterator[bytes]:
        for texts in self.texts:
            data = memoryview(texts.data)
            for start, stop in zip(texts.starts.tolist(), texts.stops.tolist(), strict=True):
                for sentence in parts(bytes(data[start:stop])):
                    if self.num_bytes + len(sentence) > self.max_bytes:
                        self.cut = True
                        return
                    self.num_bytes += len(sentence)
                    yield sentence
            self.advance(texts.num_bytes / 1e6, "")


def parts(document: bytes) -> Iterator[bytes]:
    """The lines of a UTF-8 text, those too long cut before a space, or else between two characters."""
    for line in document.split(b"\n"):
        while len(line) > SENTENCE_BYTES:
            at = line.rfind(b" ", 1, SENTENCE_BYTES)
            if at < 0:
                at = SENTENCE_BYTES
                while line[at] & 0xC0 == 0x80:
                    at -= 1
            yield line[:at]
            line = line[at:]
        if line:
            yield line
