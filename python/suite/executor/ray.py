"""Ray under the line: a cluster to join, and Ray Data, which maps block descriptors.

Ray places work, starts it again when a process or a node dies, and carries small things. Text and ids never pass
through its object store; checkpoints, metrics and resume are ours; what Ray Train stores is scratch. So a run and a
shard are the same bytes here as on one machine.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from suite.base.cli import STOPS
from suite.base.errors import ExecutorError, SuiteError, WorkerError
from suite.executor import cluster
from suite.executor.mistakes import failure
from suite.executor.nodes import check_versions, versions

START_SECONDS = 900  # for a cluster to make room: nodes boot and join, other work ends

# For the driver's environment, which Ray hands on. Train's controller looks at its workers this often; at its default
# of 2 s every end of a run waits for the next look.
_DRIVER = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}

# What begins a connection of gRPC, which Ray speaks, and the kind of frame that answers it (RFC 9113, 3.4 and 6.5).
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4" + bytes(5)
_HTTP2_SETTINGS = 4

# ── the cluster ──


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ExecutorError("ray is not installed; executor=local works without it") from None
    return ray


def connect() -> Any:
    """Joins the cluster at $RAY_ADDRESS, or starts one on this machine. Raises ExecutorError when it cannot."""
    ray = _ray()
    if ray.is_initialized():
        return ray
    for name, value in _DRIVER.items():
        os.environ.setdefault(name, value)
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in STOPS} if main else {}
    address = cluster()
    if address:
        _knock(address)
    try:
        if address:
            ray.init(log_to_driver=False, logging_level="warning")
        else:
            os.environ.setdefault(
                "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0"
            )  # a process that waits for a cloud's notice
            ray.init(address="local", dashboard_host="127.0.0.1", log_to_driver=False, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())  # of a version mismatch Ray says the versions in later lines
        raise ExecutorError(f"no Ray cluster at {address or 'this machine'}: {reason}") from None
    finally:
        # Ray puts handlers of its own in the place of SIGTERM's: one in C++ that prints a stack, one that exits.
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return ray


def _knock(address: str) -> None:
    """Raises ExecutorError when nobody is at host:port, or something else. Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto", or a name that Ray resolves
    try:
        with socket.create_connection((host, int(port)), timeout=10) as line:
            if address.startswith("ray://") or os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            line.sendall(_HTTP2_HELLO)
            answer = line.recv(4)
    except OSError as error:
        raise ExecutorError(f"no Ray cluster at {address}: {error.strerror or error}") from None
    if len(answer) < 4 or answer[3] != _HTTP2_SETTINGS:  # a frame: three bytes of length, then its type
        raise ExecutorError(
            f"no Ray cluster at {address}: another service answers there (the dashboard's port is not it)"
        )


def choose_device() -> str:
    """cuda when the cluster has a GPU now, else cpu. One that grows GPUs later needs `ray.use_gpu = true`."""
    return "cuda" if connect().cluster_resources().get("GPU", 0) else "cpu"


def find_room(ray: Any, workers: int, each: Mapping[str, float], seconds: float = START_SECONDS) -> None:
    """Returns once the cluster has room for so many workers, after asking an autoscaler to make it.

    Raises ExecutorError, saying what there is: when there is no room after `seconds`, and on a Ray of our own, which
    nobody else uses and nothing can make larger, at once.
    """
    from ray.util import placement_group, remove_placement_group

    asked = f"{workers} worker{'s' * (workers != 1)} with {_listed(each)}{' each' * (workers != 1)}"
    fits, found = _capacity(ray, each)
    if fits < workers and not cluster():
        seconds = 0
    group = placement_group([dict(each)] * workers)  # a demand, which a look at the totals is not
    try:
        if _wait(group, min(seconds, 5)):
            return
        if seconds > 5:
            print(
                f"waiting up to {seconds:g} s for room for {asked}; the cluster has {found}",
                file=sys.stderr,
                flush=True,
            )
            if _wait(group, seconds - 5):
                return
            fits, found = _capacity(ray, each)
        why = "other work holds it" if fits >= workers else "use fewer workers, or a larger cluster"
        raise ExecutorError(f"no room for {asked}: the cluster has {found}; {why}")
    finally:
        remove_placement_group(group)


def _wait(group: Any, seconds: float) -> bool:
    """In slices of a second, because Ctrl-C is not answered within one."""
    deadline = time.monotonic() + seconds
    while not group.wait(min(1.0, max(deadline - time.monotonic(), 0.0))):
        if time.monotonic() >= deadline:
            return False
    return True


def _capacity(ray: Any, each: Mapping[str, float]) -> tuple[int, str]:
    """How many workers would fit if nothing else ran, and what there is, in words."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = sum(min(int(node.get(name, 0) / amount + 1e-6) for name, amount in each.items()) for node in nodes)
    total = {name: sum(node.get(name, 0) for node in nodes) for name in {"CPU": 0, "GPU": 0, **each}}
    return fits, f"{_listed(total)} on {len(nodes)} node{'s' * (len(nodes) != 1)}"


def _listed(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())


# ── data ──


def map_anywhere(workers: int | None) -> Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]:
    """Ray Data over descriptors: results as they come. A task whose worker dies is done again by Ray.

    At most `workers` tasks at a time; None takes one for each CPU, also of nodes that come later. Tasks, not actors:
    a pool of actors that takes every CPU stops for ever without a word.
    """

    def run(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        if not items:
            return
        ray = connect()
        from ray import data
        from ray.exceptions import RayError

        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context.print_on_execution_start = False
        if ray.cluster_resources().get("CPU", 0) < 1:
            find_room(ray, 1, {"CPU": 1.0})
        share = 1.0 if ray.cluster_resources()["CPU"] > 1 else 0.5  # Ray Data wants some of a lonely CPU for itself
        # Pickled by us: these are our own small tuples, and arrow would make columns of them.
        rows = [{"item": pickle.dumps((function, item, versions()))} for item in items]
        dataset = data.from_items(rows, override_num_blocks=len(rows)).map(
            _apply, num_cpus=share, compute=data.TaskPoolStrategy(size=workers)
        )
        try:
            for row in dataset.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, SuiteError):
                    raise result
                yield result
        except RayError as error:
            raise WorkerError(f"the work failed on Ray: {failure(error)}") from None

    return run


def _apply(row: dict[str, Any]) -> dict[str, Any]:
    """One descriptor's work, in a Ray task. A user's mistake is a result: Ray would only try it again."""
    function, item, expected = pickle.loads(row["item"])
    try:
        check_versions(expected)
        result = function(item)
    except SuiteError as error:
        result = error
    except OSError as error:
        what = error.filename or "input or output"
        result = ExecutorError(f"node {socket.gethostname()}: {what}: {error.strerror or error}")
    return {"result": pickle.dumps(result)}
