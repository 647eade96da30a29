"""Ray under the line: Ray Data maps block descriptors, Ray Train runs ranks. The only file that imports ray.

Ray places work, starts it again when a process or a node dies, and carries small things. Text and ids never pass
through its object store; checkpoints, metrics and resume are ours; what Ray Train stores is scratch. So a run and a
shard are the same bytes here as on one machine.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from suite.base import errors
from suite.base.errors import ExecutorError, SuiteError
from suite.base.world import World

START_SECONDS = 120  # how long an autoscaling cluster may take to bring up what is asked for
COLLECTIVE_SECONDS = 300  # a rank that is silent for longer is taken for dead
MAX_FAILURES = 3  # deaths of workers that a run survives before it is given up

# For the driver's environment, which Ray hands on. Train's controller looks at its workers this often; at its default
# of 2 s every end of a run waits for the next look.
_DRIVER = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(START_SECONDS)}


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ExecutorError("ray is not installed; executor=local trains without it") from None
    return ray


def connect() -> Any:
    """Joins the cluster at $RAY_ADDRESS, or starts one on this machine. Raises ExecutorError when it cannot."""
    ray = _ray()
    if ray.is_initialized():
        return ray
    for name, value in _DRIVER.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    if address:
        _knock(address)
    try:
        if address:
            ray.init(log_to_driver=False, logging_level="warning")
        else:
            ray.init(address="local", dashboard_host="127.0.0.1", log_to_driver=False, logging_level="warning")
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ExecutorError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
    return ray


def _knock(address: str) -> None:
    """Raises ExecutorError when nobody listens at host:port. Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto", or a name that Ray resolves
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise ExecutorError(f"no Ray cluster at {address}: {error.strerror or error}") from None


def check_resources(ray: Any, cpus: float, gpus: float) -> None:
    """Raises ExecutorError when the cluster does not have this much, after giving an autoscaler START_SECONDS.

    $RAY_ADDRESS may lead to a cluster that grows; one that we started on this machine does not.
    """
    deadline = time.monotonic() + (START_SECONDS if os.environ.get("RAY_ADDRESS") else 0)
    while True:
        have = ray.cluster_resources()
        if have.get("CPU", 0) >= cpus and have.get("GPU", 0) >= gpus:
            return
        if time.monotonic() >= deadline:
            raise ExecutorError(
                f"the cluster has {have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs; "
                f"{cpus:g} CPUs and {gpus:g} GPUs are needed: use fewer workers, or a larger cluster"
            )
        time.sleep(1)


# ── data ──


def map_anywhere(workers: int | None) -> Callable[[Callable[[Any], Any], Sequence[Any]], Iterator[Any]]:
    """Ray Data over descriptors: results as they come. A task whose worker dies is done again by Ray.

    At most `workers` tasks at a time; None leaves it to Ray Data. One CPU of the cluster always stays free, because a
    pool that takes every CPU can stop for ever without a word.
    """

    def run(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        if not items:
            return
        ray = connect()
        from ray import data

        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context.print_on_execution_start = False
        cpus = ray.cluster_resources().get("CPU", 0)
        if cpus < 1:
            check_resources(ray, 1, 0)
        share = 1.0 if cpus > 1 else 0.5
        size = max(1, min(workers or int(cpus), int(cpus / share), len(items)))
        # Pickled by us: these are our own small tuples, and arrow would make columns of them.
        rows = [{"item": pickle.dumps((function, item))} for item in items]
        dataset = data.from_items(rows, override_num_blocks=len(rows)).map(
            _apply, num_cpus=share, compute=data.TaskPoolStrategy(size=size)
        )
        for row in dataset.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, SuiteError):
                raise result
            yield result

    return run


def _apply(row: dict[str, Any]) -> dict[str, Any]:
    """One descriptor's work, in a Ray task. A user's mistake is a result: Ray would only try it again."""
    function, item = pickle.loads(row["item"])
    try:
        result = function(item)
    except SuiteError as error:
        result = error
    return {"result": pickle.dumps(result)}


# ── training ──


def launch(function: Callable[[Any, World], Any], config: Any, num_workers: int, device: str) -> Any:
    """Calls `function(config, world)` on every rank of a TorchTrainer; returns what the first rank returns.

    A dead worker costs the steps since the last resume state: the group starts again, three times at most. A user's
    mistake ends the run at once and is raised here.
    """
    ray = connect()
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = device == "cuda"
    resources = {"CPU": float(config.threads), **({"GPU": 1.0} if gpu else {})}
    check_resources(ray, num_workers * resources["CPU"], num_workers * resources.get("GPU", 0))
    root = Path(config.root or os.environ.get("SUITE_ROOT") or ".").absolute()
    scratch = root / ".ray" / f"{config.name.replace('/', '-')}-{os.getpid()}"
    scratch.mkdir(parents=True, exist_ok=True)
    task = {
        "function": function,
        "config": config.model_copy(update={"root": str(root)}),
        "device": device,
        "scratch": str(scratch),
        "versions": versions(),
    }
    trainer = TorchTrainer(
        _rank,
        train_loop_config=task,
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=COLLECTIVE_SECONDS),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name="train",
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=2),
        ),
    )
    try:
        result = trainer.fit().return_value
        if mistake := _mistake_in(scratch):
            raise mistake
        return result
    except TrainingFailedError as error:
        raise _mistake_in(scratch) or ExecutorError(_first_line(error)) from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run's scratch may be there
            scratch.parent.rmdir()


def versions() -> dict[str, str]:
    """What must be the same on every node."""
    import platform
    from importlib.metadata import version

    return {"python": platform.python_version(), **{name: version(name) for name in ("suite", "ray", "torch")}}


def _rank(task: dict[str, Any]) -> Any:
    from ray import train

    context = train.get_context()
    scratch = Path(task["scratch"])
    if (scratch / "mistake.json").is_file():
        return None  # another rank met a user's mistake, and Ray starts the group again all the same
    try:
        _check_node(scratch, task["versions"])
        rank, size = context.get_world_rank(), context.get_world_size()
        device = f"cuda:{context.get_local_rank()}" if task["device"] == "cuda" else task["device"]
        return task["function"](task["config"], World(rank, size, device))
    except SuiteError as error:
        (scratch / "mistake.json").write_text(json.dumps({"kind": type(error).__name__, "message": str(error)}))
        raise


def _check_node(scratch: Path, expected: dict[str, str]) -> None:
    host = socket.gethostname()
    if not scratch.is_dir():
        raise ExecutorError(f"node {host} does not see {scratch}: several nodes need a root that all of them see")
    found = versions()
    different = [f"{name} {found[name]}, not {expected[name]}" for name in expected if found[name] != expected[name]]
    if different:
        raise ExecutorError(f"node {host} has {'; '.join(different)}: install the same versions on every node")


def _mistake_in(scratch: Path) -> SuiteError | None:
    path = scratch / "mistake.json"
    if not path.is_file():
        return None
    mistake = json.loads(path.read_text())
    return getattr(errors, mistake["kind"], ExecutorError)(mistake["message"])


def _first_line(error: BaseException) -> str:
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"the run failed on Ray: {lines[-1] if lines else type(cause).__name__}"
