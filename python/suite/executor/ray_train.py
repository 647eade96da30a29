"""Ray Train runs ranks: a group of workers that starts again when one dies, and stops where it is asked to.

What it stores is scratch; checkpoints, metrics and resume states are ours.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

from suite.base.cli import Interrupted
from suite.base.errors import ExecutorError, SealError, SuiteError
from suite.base.store import hold, root_of, write_atomically
from suite.base.world import World
from suite.executor.feed import Feed, OnRecord, watching
from suite.executor.mistakes import failure, keep_mistake, mistake_in, suite_error
from suite.executor.nodes import check_versions, versions
from suite.executor.ray import connect, find_room

COLLECTIVE_SECONDS = 300  # a rank that is silent for longer is taken for dead
STOP = "stop"  # the file that asks a run's workers to end
NOTICE_SECONDS = 0.2
PATIENCE_SECONDS = 30  # what a scheduler gives a job that it wants to end


def launch(
    function: Callable[[Any, World, OnRecord], Any], config: Any, num_workers: int, device: str, on_record: OnRecord
) -> Any:
    """Calls `function(config, world, on_record)` on every rank of a TorchTrainer; returns what the first returns.

    A dead worker costs the steps since the last resume state: the group starts again, config.ray.max_failures times
    at most. A user's mistake ends the run at once and is raised here.
    """
    ray = connect()
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    config.check_for_ray()
    resources = config.worker_resources
    find_room(ray, num_workers, resources, config.ray.start_seconds)
    root = root_of(config.root).absolute()
    scratch = _fresh_scratch(root / ".ray")
    held = hold(scratch)
    task = {
        "function": function,
        "config": config.model_copy(update={"root": str(root)}),
        "device": device,
        "scratch": str(scratch),
        "versions": versions(),
    }
    failures = FailureConfig(max_failures=config.ray.max_failures, controller_failure_limit=2)
    trainer = TorchTrainer(
        _rank,
        train_loop_config=task,
        torch_config=TorchConfig(backend="nccl" if device == "cuda" else "gloo", timeout_s=COLLECTIVE_SECONDS),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=device == "cuda", resources_per_worker=resources),
        run_config=RunConfig(
            name="train",
            storage_path=str(scratch),
            failure_config=failures,
            callbacks=[_deaths_to(scratch / "feed")],
        ),
    )
    try:
        with watching(scratch / "feed", on_record):
            result = _until_done(trainer.fit, scratch).return_value
        if mistake := mistake_in(scratch):
            raise mistake
        if isinstance(result, Stopped):
            raise Interrupted(result.signal)
        return result
    except TrainingFailedError as error:
        mistakes = [mistake_in(scratch), *map(suite_error, getattr(error, "worker_failures", {}).values())]
        raise next(filter(None, mistakes), ExecutorError(f"the run failed on Ray: {failure(error)}")) from None
    finally:
        held.close()
        shutil.rmtree(scratch, ignore_errors=True)
        with contextlib.suppress(OSError):  # another run's scratch may be there
            scratch.parent.rmdir()


class Stopped(NamedTuple):
    """What a rank returns that was asked to stop: raised, Ray would start the group again."""

    signal: int


def _until_done(fit: Callable[[], Any], scratch: Path) -> Any:
    """Calls fit in a thread, so that a signal to the driver asks the workers to stop instead of ending them.

    They look for the file, and their answer comes as fit's result. A group that has not answered after PATIENCE_SECONDS
    (it may not have begun) and a second signal end the driver all the same.
    """
    ended: Future[Any] = Future()

    def call() -> None:
        try:
            ended.set_result(fit())
        except BaseException as error:  # raised where it is waited for
            ended.set_exception(error)

    threading.Thread(target=call, name="fit", daemon=True).start()
    try:
        return ended.result()
    except Interrupted as interrupted:
        write_atomically(scratch / STOP, str(int(interrupted.args[0])))
        try:
            return ended.result(PATIENCE_SECONDS)
        except TimeoutError:
            raise interrupted from None


@contextlib.contextmanager
def _notices(world: World, scratch: Path) -> Iterator[None]:
    """Tells a rank what it cannot know by itself: that the driver was asked to stop, that a node will go."""
    from ray.train.v2._internal.execution.context import get_train_context

    context = get_train_context()  # belongs to this thread
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(NOTICE_SECONDS):
            if not world.stop and (scratch / STOP).is_file():
                world.stop.append(int((scratch / STOP).read_text()))
            # The public get_preemption_info is a barrier of all ranks; this is what it reads.
            info = getattr(getattr(context, "preemption_context", None), "preemption_info", None)
            if info is not None and not world.leaving:
                world.leaving.append(str(info))

    thread = threading.Thread(target=watch, name="notices", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _fresh_scratch(home: Path) -> Path:
    """A new folder, after removing those of drivers that were killed: nobody holds them any more."""
    for old in home.glob("*"):
        with contextlib.suppress(SealError):
            hold(old).close()
            shutil.rmtree(old, ignore_errors=True)
    scratch = home / secrets.token_hex(8)
    (scratch / "feed").mkdir(parents=True)
    return scratch


def _deaths_to(folder: Path) -> Any:
    """A callback for Train's controller that tells the driver of workers that ended badly."""
    from ray.train import UserCallback

    class Deaths(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            for rank, error in worker_exceptions.items():
                if not suite_error(error):
                    Feed(folder)({"step": 0, "note": f"worker {rank} ended: {failure(error).partition('. ')[0]}"})

    return Deaths()


def _rank(task: dict[str, Any]) -> Any:
    scratch, host = Path(task["scratch"]), socket.gethostname()
    if not scratch.is_dir():
        raise ExecutorError(f"node {host} does not see {scratch}: several nodes need a root that all of them see")
    if mistake_in(scratch):
        return None  # another rank met a user's mistake, and Ray starts the group again all the same
    try:
        check_versions(task["versions"])
        from ray import train
        from ray.train.torch import get_device

        context = train.get_context()
        rank, size = context.get_world_rank(), context.get_world_size()
        device = str(get_device()) if task["device"] == "cuda" else task["device"]
        feed = Feed(scratch / "feed")
        feed({"step": 0, "note": f"worker {rank} of {size} on {host}, {device}"})
        world = World(rank, size, device)
        with _notices(world, scratch):
            return task["function"](task["config"], world, feed)
    except Interrupted as interrupted:
        return Stopped(interrupted.args[0])
    except SuiteError as error:
        keep_mistake(scratch, error)
        raise
