"""This machine's processes: an ordered map for data, ranks for training, runs side by side for a suite."""

from __future__ import annotations

import collections
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from suite.base.errors import WorkerError

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_RETRIES = 3


def num_cpus() -> int:
    """Cores this process may use, which in a container or under taskset is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_order(workers: int) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]:
    """`map(function, items)` over worker processes: results in order, at most 2 * workers items under way.

    A worker that is killed costs its items' work again, three times at most, then WorkerError. What the function
    raises is raised here.
    """

    def run(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        listed = list(items)
        if workers <= 1 or len(listed) <= 1:
            yield from map(function, listed)
            return
        done, deaths = 0, 0
        while done < len(listed):
            try:
                for result in _ordered(function, listed[done:], min(workers, len(listed))):
                    yield result
                    done += 1
            except BrokenProcessPool:
                deaths += 1
                if deaths > MAX_RETRIES:
                    raise WorkerError(
                        f"worker processes died {deaths} times (killed, or out of memory); fewer --workers need less"
                    ) from None

    return run


def _one_thread_each() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism


def _ordered(function: Callable[[Item], Result], items: list[Item], workers: int) -> Iterator[Result]:
    # Spawned, not forked: the parent may hold threads of torch or tokenizers, which a fork would copy mid-lock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread_each)
    try:
        pending: collections.deque[Future[Result]] = collections.deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
