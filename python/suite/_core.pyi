"""The Rust extension. Lengths are in tokens, counts in rows; buffers are anything NumPy-like and contiguous."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

def plan(
    counts: Sequence[int], seq_len: int, overlap: int, rows_per_shard: int
) -> tuple[int, int, list[tuple[int, int, int, int]]]:
    """Token counts of blocks -> (rows, tokens dropped at the tail, [(first row, rows, start, stop) per shard])."""

def order_rows(seed: int, num_rows: int, start: int, count: int) -> bytes:
    """Row numbers, as uint64, at positions start .. start+count of the endless order of epochs."""

def order_positions(seed: int, num_rows: int, epoch: int, rows: Any) -> bytes:
    """Where in an epoch these rows (uint64) come: uint64 [rows], each below num_rows. ValueError: no such row."""

def read_shard(path: str | PathLike[str], seq_len: int, wide: bool, sha256: str | None) -> bytes:
    """All rows of a shard as uint16, or uint32 when wide. ValueError: wrong hash, or not such a shard."""

def read_shard_into(path: str | PathLike[str], seq_len: int, vocab_size: int, sha256: str | None, out: Any) -> None:
    """The same into `out`: uint16, or uint32 for vocabularies above 65,536, of exactly the shard's rows.

    ValueError also for another number of rows and for an id beyond the vocabulary; `out` holds anything then.
    """

class Packer:
    """Cuts a stream of token ids, pushed in pieces of any size, into shards."""

    def __init__(
        self,
        directory: str | PathLike[str],
        prefix: str,
        *,
        bos: int,
        vocab_size: int,
        seq_len: int,
        overlap: int,
        rows_per_shard: int,
        first_shard: int = 0,
    ) -> None: ...
    def push(self, buffer: Any) -> None:
        """The next ids, uint16 for vocabularies up to 65,536, else uint32. ValueError: an id beyond the vocabulary."""
    def written(self) -> list[tuple[str, int, int, str]]:
        """The shards finished since the last call: (name, rows, bytes, sha256)."""
    def finish(self) -> tuple[list[tuple[str, int, int, str]], int]:
        """Ends the stream -> (the shards finished since `written`, tokens pushed)."""

class IndexWriter:
    """The index of a split's documents: parquet, a column `tokens` with the length of each, in corpus order."""

    def __init__(self, path: str | PathLike[str]) -> None: ...
    def push(self, lengths: Any) -> None:
        """The next documents' lengths, uint32."""
    def finish(self) -> tuple[str, int, int, str]:
        """(name, documents, bytes, sha256); the file has its name only now."""

class Finder:
    """Searches a stream of ids, pushed in pieces of any size, for the places where they spell a text."""

    def __init__(self, text: bytes, spelled: Sequence[bytes], breaks: Sequence[int], wide: bool) -> None:
        """`spelled`: the bytes of each id; ids in `breaks` end documents. ValueError: the text is empty."""
    def push(self, ids: Any) -> list[tuple[int, int]]:
        """First and last token, counted from the stream's beginning, of the places that these ids complete."""
    def end(self) -> None:
        """Ends the document under way: nothing is found across it."""

class Distinct:
    """Remembers documents by 16 bytes of their hashes; at most 34 bytes of memory each."""

    def __init__(self) -> None: ...
    def firsts(self, digests: bytes) -> bytes:
        """1 where a document is the first with its text, else 0. ValueError: not a multiple of 16 bytes."""

# Documents in one buffer: uint8 [bytes], int64 [documents], int64 [documents].

class Encoder:
    """Byte-level BPE with GPT-2's words; remembers words from call to call, in memory of fixed size."""

    def __init__(
        self,
        bytes: Sequence[int],
        merges: Sequence[tuple[int, int, int]],
        *,
        add_prefix_space: bool,
        eos: int,
        wide: bool,
    ) -> None:
        """The id of each of 256 bytes; (left, right, made) by rank. ValueError: an id that does not fit."""
    @staticmethod
    def of_characters(
        bytes: Sequence[int],
        characters: Mapping[str, int],
        merges: Sequence[tuple[int, int, int]],
        *,
        visible: str,
        prefix: str,
        runs: bool,
        eos: int,
        wide: bool,
    ) -> Encoder:
        """Of words that spaces begin, " " among the characters; one that is not there is its bytes. prefix, runs: as
        for CharacterWords."""
    def stream(self, data: Any, starts: Any, stops: Any) -> tuple[bytes, bytes]:
        """Each document's ids and then eos: uint16, or uint32 when wide; how many each has: uint32. ValueError: a
        document is not UTF-8."""

class WordCounts:
    """Counts GPT-2's words; memory grows with the number of distinct ones."""

    def __init__(self) -> None: ...
    def add(self, data: Any, starts: Any, stops: Any) -> None:
        """The words of these documents. ValueError: one is not UTF-8."""

class CharacterWords:
    """Counts words of characters, where a space is a visible character; memory grows with the distinct ones."""

    def __init__(self) -> None: ...
    def add(self, word: str, count: int) -> None:
        """A word that the caller has divided from its text."""
    def add_texts(self, data: Any, starts: Any, stops: Any, *, visible: str, prefix: str, runs: bool) -> None:
        """The words of these documents, a space as " ", and `visible` in a text as one.

        prefix: a space comes before a text "never", "always" or "unless there". runs: a run of spaces begins a word,
        otherwise each does. ValueError: a document is not UTF-8.
        """
    def characters(self) -> dict[str, int]:
        """How often each occurs."""

class Trainer:
    """BPE from counts, as the tokenizers library's trainer makes it."""

    def __init__(self, words: WordCounts, bytes: Sequence[int], vocab_size: int) -> None:
        """The id of each of 256 bytes; new ids follow the largest. Takes the words: none are left."""
    @staticmethod
    def of_characters(
        words: CharacterWords, ids: Mapping[str, int], reserved: Sequence[str], first_id: int, vocab_size: int
    ) -> Trainer:
        """No token is made of characters without an id, nor is one of the reserved strings. Takes the words."""
    def merge(self, most: int) -> int:
        """How many merges it made; fewer than `most` when there are no more to make."""
    def merges(self) -> list[tuple[int, int]]:
        """The pairs merged so far, each of which made the next id."""

def not_utf8(data: Any, starts: Any, stops: Any) -> int | None:
    """The number of the first document that is not UTF-8."""

def text_hashes(data: Any, starts: Any, stops: Any) -> bytes:
    """The first 16 bytes of each document's SHA-256, one behind the other."""

def jsonl_texts(data: Any, field: str) -> tuple[bytes, bytes] | None:
    """A field's texts and their int64 edges; None when a line is not a table with a text there."""

def join_texts(between: Sequence[bytes], columns: Sequence[tuple[Any, Any, Any]]) -> tuple[bytes, bytes]:
    """Row by row `between[0] column 0 between[1] ... between[-1]`: texts and their int64 edges.

    ValueError: columns of different lengths, or not one more piece between them than there are columns.
    """

def csv_header(data: Any, separator: int, last: bool) -> tuple[list[bytes], int] | None:
    """The first row and the bytes taken; None while it is not all there, or nothing is. ValueError: no such row."""

def csv_texts(data: Any, separator: int, column: int, columns: int, last: bool) -> tuple[bytes, bytes, int, str | None]:
    """A column's texts of all whole rows, their int64 edges, the bytes taken, the problem with the next row."""

GRAMMAR_VERSION: int

def stories(seed: int, split: str, start: int, count: int) -> list[str]:
    """Stories start .. start+count of a split."""

def story_texts(seed: int, split: str, start: int, count: int) -> tuple[bytes, bytes]:
    """The same, one behind the other, and the int64 places where each begins; one more place at the end."""

def story_spans(text: str) -> list[tuple[int, int, str, float]]:
    """(start, end, kind, nats) of every span of a story. ValueError: the grammar cannot have written the text."""

def story_entropy() -> dict[str, Any]:
    """Exact expectations per story: nats, nats_by_kind, mean_characters, characters_by_kind, max_characters."""

# Kernels: float32 arrays whose last dimension is contiguous, results into arrays that the caller made.
# ValueError: shapes that do not fit, or outputs that overlap.

SCAN_CHUNK: int

def selective_scan(inputs: Sequence[Any], out: Any, states: Any, threads: int, starts: Any = None) -> None: ...
def selective_scan_advance(inputs: Sequence[Any], state: Any, out: Any, threads: int) -> None: ...
def selective_scan_backward(
    inputs: Sequence[Any], states: Any, out_grad: Any, grads: Sequence[Any], threads: int, starts: Any = None
) -> None: ...
def conv_silu(x: Any, weight: Any, bias: Any, out: Any, threads: int, starts: Any = None) -> None: ...
def conv_silu_backward(
    x: Any, weight: Any, bias: Any, out_grad: Any, grads: Sequence[Any], threads: int, starts: Any = None
) -> None: ...
def causal_attention(
    arrays: Sequence[Any], heads: tuple[int, int], starts: Any, out: Any, kept: Any, threads: int
) -> None: ...
def causal_attention_backward(
    arrays: Sequence[Any],
    heads: tuple[int, int],
    starts: Any,
    forward: Sequence[Any],
    grads: Sequence[Any],
    threads: int,
) -> None: ...
def linear_cross_entropy(
    hidden: Any, weight: Any, targets: Any, ignore: int, grads: tuple[Any, Any] | None, threads: int
) -> float: ...
