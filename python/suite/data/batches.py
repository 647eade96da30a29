"""Which rows go into which step, on which rank, and how they come to the device before the step needs them.

Order is a bijection computed per row (rust/core/src/order.rs), not a shuffled array: resuming is one integer, any
number of workers sees the same batches, and nothing is held in memory.

One thread gathers rows from the map, which may wait for the disk, two batches ahead; NumPy gathers and casts without
the GIL. For a GPU the ids go as they are stored, a quarter of int64's bytes, through page-locked buffers and a stream
of their own, and are widened there.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from suite import _core

if TYPE_CHECKING:
    import torch

DEPTH = 2  # batches that wait


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


@contextmanager
def ahead(
    rows: np.ndarray,
    steps: range,
    numbers_of: Callable[[int], np.ndarray],
    device: str,
    change: Callable[[int, np.ndarray], None] | None = None,
) -> Iterator[Iterator[torch.Tensor]]:
    """Yields the batches of these steps in turn, int64 [len(numbers_of(step)), seq_len], on the device.

    `change(step, ids)` may write into a batch's int64 ids before they go there. What fails while a batch is gathered
    is raised where that batch is asked for. The thread ends with the block, however the block ends.
    """
    ready: queue.Queue[Any] = queue.Queue(DEPTH)
    stop = threading.Event()
    batch_of = _onto_gpu(rows, device) if device.startswith("cuda") and not change else _in_memory(rows)

    def gather() -> None:
        try:
            for step in steps:
                if stop.is_set():
                    return
                batch = batch_of(numbers_of(step))
                ready.put(_changed(batch, partial(change, step), device) if change else batch)
        except BaseException as error:  # not lost in a thread: the step that needs the batch raises it
            ready.put(error)

    def batches() -> Iterator[torch.Tensor]:
        for _ in steps:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item()

    thread = threading.Thread(target=gather, name="batches", daemon=True)
    thread.start()
    try:
        yield batches()
    finally:
        stop.set()
        while not ready.empty():  # makes room for the one batch that the thread may still put
            ready.get()
        thread.join()


def _changed(batch: Callable[[], torch.Tensor], change: Callable[[np.ndarray], None], device: str) -> Any:
    """A batch in memory after `change`, on its way to the device. Few runs have changes: no stream, no buffers."""
    ids_BT = batch()
    change(ids_BT.numpy())
    return lambda: ids_BT.to(device)


def _gather(rows: np.ndarray, numbers: np.ndarray, out: np.ndarray) -> np.ndarray:
    # "raise" would gather into a copy of `out` first; all numbers are below len(rows) by their making.
    return np.take(rows, numbers.astype(np.int64), axis=0, out=out[: len(numbers)], mode="clip")


def _in_memory(rows: np.ndarray) -> Callable[[np.ndarray], Callable[[], torch.Tensor]]:
    import torch

    buffer = np.empty((0, rows.shape[1]), rows.dtype)

    def batch_of(numbers: np.ndarray) -> Callable[[], torch.Tensor]:
        nonlocal buffer
        if len(buffer) < len(numbers):
            buffer = np.empty((len(numbers), rows.shape[1]), rows.dtype)
        # By NumPy, not torch, whose operations would start this thread's own team of OpenMP threads.
        ids_BT = torch.from_numpy(_gather(rows, numbers, buffer).astype(np.int64))
        return lambda: ids_BT

    return batch_of


def _onto_gpu(rows: np.ndarray, device: str) -> Callable[[np.ndarray], Callable[[], torch.Tensor]]:
    import torch

    # Which device is current is each thread's own affair: name the one of the thread that trains.
    place = torch.device(device)
    place = torch.device("cuda", torch.cuda.current_device()) if place.index is None else place
    stream = torch.cuda.Stream(place)
    signed = np.dtype(f"i{rows.dtype.itemsize}")  # torch knows few operations on unsigned integers
    mask = (1 << 8 * rows.dtype.itemsize) - 1
    buffers: list[tuple[torch.Tensor, torch.cuda.Event]] = []
    turn = 0

    def batch_of(numbers: np.ndarray) -> Callable[[], torch.Tensor]:
        nonlocal turn
        with torch.cuda.device(place), torch.cuda.stream(stream):
            if not buffers:
                kind = torch.int16 if signed.itemsize == 2 else torch.int32
                for _ in range(2):
                    page_locked = torch.empty((len(numbers), rows.shape[1]), dtype=kind, pin_memory=True)
                    buffers.append((page_locked, torch.cuda.Event()))
            buffer, copied = buffers[turn]
            turn = 1 - turn
            copied.synchronize()  # its last batch has left it
            _gather(rows.view(signed), numbers, buffer.numpy())
            narrow_BT = buffer[: len(numbers)].to(place, non_blocking=True)
            copied.record(stream)
            ids_BT = narrow_BT.to(torch.int64) & mask
            done = torch.cuda.Event()
            done.record(stream)

        def arrive() -> torch.Tensor:
            current = torch.cuda.current_stream(place)
            current.wait_event(done)
            ids_BT.record_stream(current)  # its memory is the other stream's: not to be given away while in use here
            return ids_BT

        return arrive

    return batch_of
