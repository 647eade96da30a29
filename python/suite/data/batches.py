"""Which rows go into which step, on which rank: integers in, integers out.

Order is a bijection computed per row (rust/core/src/order.rs), not a shuffled array: resuming is one integer, any
number of workers sees the same batches, and nothing is held in memory.
"""

from __future__ import annotations

import numpy as np

from suite import _core


def rank_slice(batch_size: int, rank: int, world_size: int) -> tuple[int, int]:
    """The part [first, last) of every batch that a rank takes."""
    return rank * batch_size // world_size, (rank + 1) * batch_size // world_size


def steps_of(row: int, batch_size: int, num_rows: int, seed: int, num_steps: int) -> list[int]:
    """Which of the first `num_steps` steps read a row, counted from 0."""
    steps = []
    for epoch in range(-(-num_steps * batch_size // num_rows)):
        rows = np.array([row], np.uint64)
        position = int(np.frombuffer(_core.order_positions(seed, num_rows, epoch, rows), np.uint64)[0])
        steps.append((epoch * num_rows + position) // batch_size)
    return [step for step in steps if step < num_steps]


def batch_rows(step: int, rank: int, world_size: int, batch_size: int, num_rows: int, seed: int) -> np.ndarray:
    """Row numbers, uint64, of a rank's part of a step's batch.

    Position p = step * batch_size + i is row order(seed, p div num_rows)(p mod num_rows): batches run across the
    edges of epochs and no row is dropped.
    """
    first, last = rank_slice(batch_size, rank, world_size)
    return np.frombuffer(_core.order_rows(seed, num_rows, step * batch_size + first, last - first), np.uint64)
