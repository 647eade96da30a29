"""The Rust extension. Lengths are in tokens, counts in rows; buffers are anything NumPy-like and contiguous."""

from collections.abc import Sequence
from os import PathLike
from typing import Any

def plan(
    counts: Sequence[int], seq_len: int, overlap: int, rows_per_shard: int
) -> tuple[int, int, list[tuple[int, int, int, int]]]:
    """Token counts of blocks -> (rows, tokens dropped at the tail, [(first row, rows, start, stop) per shard])."""

def order_rows(seed: int, num_rows: int, start: int, count: int) -> bytes:
    """Row numbers, as uint64, at positions start .. start+count of the endless order of epochs."""

def read_shard(path: str | PathLike[str], seq_len: int, wide: bool, sha256: str | None) -> bytes:
    """All rows of a shard as uint16, or uint32 when wide. ValueError: wrong hash, or not such a shard."""

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
    def finish(self) -> tuple[list[tuple[str, int, int, str]], int]:
        """Ends the stream -> ([(name, rows, bytes, sha256)], tokens pushed)."""

GRAMMAR_VERSION: int

def stories(seed: int, split: str, start: int, count: int) -> list[str]:
    """Stories start .. start+count of a split."""

def story_spans(text: str) -> list[tuple[int, int, str, float]]:
    """(start, end, kind, nats) of every span of a story. ValueError: the grammar cannot have written the text."""

def story_entropy() -> dict[str, Any]:
    """Exact expectations per story: nats, nats_by_kind, mean_characters, characters_by_kind, max_characters."""

# Kernels: float32 arrays whose last dimension is contiguous, results into arrays that the caller made.
# ValueError: shapes that do not fit, or outputs that overlap.

SCAN_CHUNK: int

def selective_scan(inputs: Sequence[Any], out: Any, states: Any, threads: int) -> None: ...
def selective_scan_backward(
    inputs: Sequence[Any], states: Any, out_grad: Any, grads: Sequence[Any], threads: int
) -> None: ...
def conv_silu(x: Any, weight: Any, bias: Any, out: Any, threads: int) -> None: ...
def conv_silu_backward(x: Any, weight: Any, bias: Any, out_grad: Any, grads: Sequence[Any], threads: int) -> None: ...
