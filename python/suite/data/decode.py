"""Shards into rows, checked on the way: our own in Rust, others' by pyarrow, several at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from suite import _core
from suite.base.errors import TokensError
from suite.base.store import sha256_of
from suite.data import lists


def check(path: Path, sha256: str) -> None:
    """Raises TokensError when the file's hash is another."""
    found = sha256_of(path)
    if found != sha256:
        raise TokensError(
            f"{path}: SHA-256 is {found}, the manifest says {sha256}: the file was damaged or replaced; remove it and "
            "tokenize again"
        )


def ours(path: Path, sha256: str, vocab_size: int, rows: np.ndarray) -> None:
    """A shard that we wrote into rows [rows, seq_len]. Raises TokensError for anything else, and after damage."""
    try:
        _core.read_shard_into(path, rows.shape[1], vocab_size, sha256, rows)
    except (ValueError, OSError) as error:
        raise TokensError(str(error)) from None


def others(path: Path, sha256: str, vocab_size: int, rows: np.ndarray, column: str) -> None:
    """The same for a parquet file with a column of lists that someone else wrote."""
    check(path, sha256)
    first = 0
    for batch in lists.batches(path, column, rows.shape[1], vocab_size):
        if first + len(batch) <= len(rows):
            rows[first : first + len(batch)] = batch
        first += len(batch)
    if first != len(rows):
        raise TokensError(f"{path}: {first} rows, the manifest says {len(rows)}")


def in_threads(work: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
    """The calls' results, made in as many threads as there are cores; the first error in the calls' order is raised."""
    with ThreadPoolExecutor(min(16, len(os.sched_getaffinity(0)))) as pool:
        waiting = [pool.submit(work, *arguments) for arguments in calls]
        try:
            return [one.result() for one in waiting]
        except BaseException:
            pool.shutdown(cancel_futures=True)  # waits for those under way: they may write into the caller's memory
            raise
