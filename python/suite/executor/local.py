"""This machine's processes: an ordered map for data, ranks for training, runs side by side for a suite."""

from __future__ import annotations

import collections
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from suite.base.cli import Interrupted, exit_code
from suite.base.errors import SuiteError, WorkerError
from suite.base.world import World
from suite.executor.feed import Feed, OnRecord, watching

Item = TypeVar("Item")
Result = TypeVar("Result")

MAX_RETRIES = 3
PATIENCE_SECONDS = 20
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


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


def map_in_threads(workers: int) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]:
    """The same over threads, for functions that work without Python's lock: nothing to start, nothing to send."""

    def run(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        listed = list(items)
        _keep_freed_memory()
        if workers <= 1 or len(listed) <= 1:
            yield from map(function, listed)
        else:
            yield from _in_order(ThreadPoolExecutor(workers), function, listed, workers)

    return run


def _keep_freed_memory() -> None:
    """Lets the allocator give out again what was freed, up to 64 MB, before it asks the system for pages.

    Every block needs some megabytes for a moment, and a page that is new costs microseconds: 68,000 of them in 110 MB
    of text, 23,000 with this, and 6 % less CPU time. Only glibc has the call; without it work is as before.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)


def _belong_to_parent() -> None:
    """Ctrl-C is the parent's to handle, and when the parent goes, however it goes, so does this process.

    Without the second a killed `suite demo` would leave trainers behind that nobody watches and that keep their runs.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _one_thread_each() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _belong_to_parent()


def _ordered(function: Callable[[Item], Result], items: list[Item], workers: int) -> Iterator[Result]:
    # Spawned, not forked: the parent may hold threads of torch or tokenizers, which a fork would copy mid-lock.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread_each)
    return _in_order(pool, function, items, workers)


def _in_order(pool: Executor, function: Callable[[Item], Result], items: list[Item], workers: int) -> Iterator[Result]:
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


def launch(
    function: Callable[[Any, World, OnRecord], Any], config: Any, num_workers: int, device: str, on_record: OnRecord
) -> Any:
    """Calls `function(config, world, on_record)` on every rank; returns what the first rank returns.

    One rank runs here. More are spawned processes in a gloo (CPU) or NCCL (GPU) group on loopback. When one fails
    the others are ended, and its error is raised here.
    """
    if num_workers == 1:
        return function(config, World(device=device), on_record)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="suite-") as folder:
        outbox = context.SimpleQueue()
        ranks = [
            context.Process(target=_rank, args=(function, config, rank, num_workers, device, folder, outbox))
            for rank in range(num_workers)
        ]
        for process in ranks:
            process.start()
        try:
            with watching(Path(folder) / "feed", on_record):
                return _first_result(ranks, outbox)
        finally:
            _end(ranks)


def _end(processes: list[Any]) -> None:
    """Asks processes to end, gives them time for a last resume state, and ends those that take longer."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(PATIENCE_SECONDS)
        process.kill()
        process.join()


def _first_result(ranks: list[Any], outbox: Any) -> Any:
    results: dict[int, Any] = {}
    while len(results) < len(ranks):
        multiprocessing.connection.wait(
            [outbox._reader, *(process.sentinel for process in ranks if process.is_alive())]
        )
        while not outbox.empty():
            rank, result, error = outbox.get()
            if error is not None:
                raise error
            results[rank] = result
        for rank, process in enumerate(ranks):
            if process.exitcode and rank not in results and outbox.empty():
                raise WorkerError(
                    f"worker {rank} of {len(ranks)} died (exit code {process.exitcode}); the same command goes on from "
                    "the last resume state"
                )
    return results[0]


def _rank(
    function: Callable[[Any, World, OnRecord], Any],
    config: Any,
    rank: int,
    size: int,
    device: str,
    folder: str,
    outbox: Any,
) -> None:
    import torch
    import torch.distributed

    _belong_to_parent()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if device == "cuda":
        torch.cuda.set_device(rank)
    try:
        torch.distributed.init_process_group(
            "nccl" if device == "cuda" else "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size
        )
        world = World(rank, size, f"cuda:{rank}" if device == "cuda" else device)
        outbox.put((rank, function(config, world, Feed(Path(folder) / "feed")), None))
        torch.distributed.destroy_process_group()
    except (SuiteError, Interrupted) as error:
        outbox.put((rank, None, error))


class Outcome(NamedTuple):
    """How a side-by-side call ended: what was returned, or the line that says why not."""

    result: Any
    error: str | None


def side_by_side(
    function: Callable[[Any], Any], items: list[Any], processes: int, while_waiting: Callable[[list[bool]], None]
) -> list[Outcome]:
    """Calls the function on every item in a process of its own, so many at a time, in the order given.

    One that fails leaves the others going. `while_waiting` is told several times a second which items have begun.
    """
    context = multiprocessing.get_context("spawn")
    outbox = context.SimpleQueue()
    outcomes: dict[int, Outcome] = {}
    running: dict[int, Any] = {}
    waiting = list(range(len(items)))
    try:
        while len(outcomes) < len(items):
            while waiting and len(running) < processes:
                number = waiting.pop(0)
                running[number] = context.Process(target=_member, args=(function, items[number], number, outbox))
                running[number].start()
            multiprocessing.connection.wait([process.sentinel for process in running.values()], timeout=0.25)
            while not outbox.empty():
                number, outcome = outbox.get()
                outcomes[number] = outcome
            for number, process in list(running.items()):
                if not process.is_alive() and outbox.empty():
                    del running[number]
                    outcomes.setdefault(number, Outcome(None, f"its process died (exit code {process.exitcode})"))
            while_waiting([number not in waiting for number in range(len(items))])
    finally:
        _end(list(running.values()))
    return [outcomes[number] for number in range(len(items))]


def _member(function: Callable[[Any], Any], item: Any, number: int, outbox: Any) -> None:
    _belong_to_parent()
    try:
        outbox.put((number, Outcome(function(item), None)))
    except SuiteError as error:
        outbox.put((number, Outcome(None, str(error))))
    except Interrupted as interrupted:
        sys.exit(exit_code(interrupted))
