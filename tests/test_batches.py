"""Batches ahead of the step: the same rows in the same order, errors where they are asked for, no thread left."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from suite.data.batches import DEPTH, ahead, batch_rows

ROWS = np.arange(50 * 6, dtype=np.uint16).reshape(50, 6) + 60_000
STEPS = range(3, 40)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "batches"]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@pytest.mark.parametrize("world_size", [1, 3])
def test_batches_are_the_rows_of_their_steps(world_size, dtype):
    rows = (ROWS.astype(np.uint64) * 70_000 % 2**32).astype(dtype)
    for rank in range(world_size):

        def numbers(step: int, rank: int = rank) -> np.ndarray:
            return batch_rows(step, rank, world_size, 7, len(rows), 11)

        with ahead(rows, STEPS, numbers, "cpu") as batches:
            found = list(batches)  # all kept: no batch may be another's memory
        assert len(found) == len(STEPS) and {batch.dtype for batch in found} == {torch.int64}
        for step, batch in zip(STEPS, found, strict=True):
            assert np.array_equal(batch.numpy(), rows[numbers(step)])
    assert not threads()


def test_no_more_than_two_wait_and_one_is_made():
    asked = []

    def numbers(step: int) -> np.ndarray:
        asked.append(step)
        return np.array([step], np.uint64)

    with ahead(ROWS, STEPS, numbers, "cpu") as batches:
        next(batches)
        deadline = time.monotonic() + 5
        while len(asked) < DEPTH + 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert asked == list(STEPS[: DEPTH + 2])
        assert threads()
    assert not threads()


def test_an_error_is_raised_at_its_batch_and_ends_the_thread():
    def numbers(step: int) -> np.ndarray:
        if step == STEPS[2]:
            raise OSError("the disk is gone")
        return np.array([step], np.uint64)

    with ahead(ROWS, STEPS, numbers, "cpu") as batches:
        assert [next(batches).tolist() for _ in range(2)] == [[ROWS[step].tolist()] for step in STEPS[:2]]
        with pytest.raises(OSError, match="the disk is gone"):
            next(batches)
    assert not threads()


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_whatever_ends_the_loop_ends_the_thread(taken):
    with pytest.raises(KeyboardInterrupt), ahead(ROWS, STEPS, lambda step: np.zeros(1, np.uint64), "cpu") as batches:
        for _ in range(taken):
            next(batches)
        raise KeyboardInterrupt
    assert not threads()


def test_no_steps_are_no_batches():
    with ahead(ROWS, range(4, 4), lambda step: np.zeros(1, np.uint64), "cpu") as batches:
        assert list(batches) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_the_same_batches_reach_a_gpu(dtype):
    rows = (np.arange(500 * 64, dtype=np.uint64).reshape(500, 64) * 2_654_435_761 % 2**32).astype(dtype)
    numbers = [batch_rows(step, 0, 1, 33, len(rows), 11) for step in range(200)]
    with ahead(rows, range(200), lambda step: numbers[step], "cuda") as batches:
        for step, batch in enumerate(batches):
            torch.cuda._sleep(100_000)  # work in flight, as a step has
            assert batch.is_cuda and np.array_equal((batch + 0).cpu().numpy(), rows[numbers[step]])
