"""The same bytes through Ray: shards by Ray Data, weights by Ray Train, also when a worker is killed."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import kill_once
import ranks
from conftest import call, refusal, weights_of
from head import SETTINGS, Head
from suite.base.errors import DivergedError, ExecutorError, TokensError
from suite.base.store import hold
from suite.base.tracker import METRICS, read_records
from suite.data import pack, spill, tokenizer
from suite.data.encode import Shape
from suite.data.source import Source
from suite.data.spill import two_passes
from suite.executor import choose, local, nodes
from suite.executor import ray as executor
from suite.executor import ray_train as train
from suite.executor.mistakes import keep_mistake, mistake_in
from suite.training import run
from suite.training.config import load_run


@pytest.fixture(scope="module")
def connected(ray_head: Head) -> Iterator[None]:
    """This process as a driver of the tests' head."""
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS, RAY_ADDRESS=ray_head.address)
    import ray as library

    assert not library.is_initialized(), "an earlier test has left a Ray of its own in this process"
    ray = executor.connect()
    del os.environ["RAY_ADDRESS"]  # each test says for itself what runs on Ray
    yield
    ray.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def test_auto_is_ray_in_a_job_and_for_several_workers(monkeypatch):
    assert (choose("auto"), choose("auto", 2), choose("local", 2)) == ("local", "ray", "local")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert (choose("auto"), choose("local")) == ("ray", "local")


def tokens_by(work, corpus: Path, tokenizer_dir: Path, folder: Path) -> dict[str, bytes]:
    shape, encoder = Shape(16, rows_per_shard=150), tokenizer.load(tokenizer_dir)
    pack.tokenize(Source(str(corpus)), encoder, folder, shape, work, name="train", block_bytes=3000)
    assert not list(folder.glob(".part*"))
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".parquet", ".json")}


@pytest.fixture(scope="module")
def local_tokens(corpus, tokenizer_dir, tmp_path_factory) -> dict[str, bytes]:
    return tokens_by(pack.one_pass(local.map_in_order(1)), corpus, tokenizer_dir, tmp_path_factory.mktemp("local"))


def test_shards_are_the_local_ones_also_when_a_worker_is_killed_and_blocks_arrive_shuffled(
    connected, corpus, tokenizer_dir, tmp_path, local_tokens
):
    mark = tmp_path / "killed"

    def killing(function, items):
        """Shuffled twice, as they go and as they come, and the worker that meets one of them dies of it, once."""
        mixed = items[1::2] + items[::2]
        doomed = functools.partial(kill_once.encode_or_die, function, items[len(items) // 2], mark)
        return reversed(list(executor.map_anywhere(2)(doomed, mixed)))

    assert tokens_by(two_passes(killing), corpus, tokenizer_dir, tmp_path / "tokens") == local_tokens
    assert mark.exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_shards_are_the_local_ones(connected, corpus, tokenizer_dir, tmp_path, local_tokens, workers):
    work = two_passes(executor.map_anywhere(workers))
    assert tokens_by(work, corpus, tokenizer_dir, tmp_path / "tokens") == local_tokens


def test_a_node_that_sees_other_folders_is_named(corpus, tokenizer_dir, tmp_path):
    """What a worker does on such a node, here without one; tests/test_two_hosts.py has the node."""
    absent = SimpleNamespace(out_dir=tmp_path / "absent", part=tmp_path / "absent" / ".part-train")
    with pytest.raises(TokensError, match=r"node .* does not see .*absent"):
        spill.spill_block((0, None), job=absent)  # type: ignore[arg-type]
    with pytest.raises(ExecutorError, match=r"node .* does not see .*absent"):
        train._rank({"scratch": str(tmp_path / "absent")})


def test_what_a_killed_driver_left_is_removed_and_what_another_holds_is_not(tmp_path):
    """A mistake that an old driver noted must not end a new run."""
    left, held = tmp_path / "left", tmp_path / "held"
    for folder in (left, held):
        folder.mkdir()
        keep_mistake(folder, DivergedError("old"))
    with hold(held):
        scratch = train._fresh_scratch(tmp_path)
    assert not left.exists() and mistake_in(held) and mistake_in(scratch) is None and (scratch / "feed").is_dir()


def test_a_node_with_other_versions_is_named():
    with pytest.raises(ExecutorError, match=r"node .* has torch .*, not 1\.0: install the same versions"):
        nodes.check_versions({**nodes.versions(), "torch": "1.0"})
    nodes.check_versions(nodes.versions())


@pytest.fixture(scope="module")
def two_local_workers(tiny_root: Path) -> bytes:
    arguments = [f"root={tiny_root}", "name=local-2", "num_workers=2", "executor=local"]
    call("train", tiny_root / "llama.toml", *arguments)
    return weights_of(tiny_root / "runs" / "local-2", 14)


@pytest.mark.slow
def test_two_workers_end_in_the_weights_of_two_local_ones_also_when_one_is_killed_in_a_step(
    connected, tiny_root, two_local_workers
):
    arguments = [f"root={tiny_root}", "name=ray-killed", "num_workers=2"]
    wanted = load_run([tiny_root / "llama.toml"], arguments)
    settled = run.settle(wanted, run.choices(wanted, 2, lambda: "cpu"))
    told: list[dict] = []
    train.launch(ranks.train_but_die_once, settled, 2, "cpu", told.append)
    assert (settled.folder / "died").exists()
    assert weights_of(settled.folder, 14) == two_local_workers
    assert "nothing to do" in call("train", tiny_root / "llama.toml", *arguments)
    assert not (tiny_root / ".ray").exists()

    notes = [record["note"] for record in told if "note" in record]
    assert sum("worker 1 of 2 on " in note for note in notes) == 2, notes  # it came back
    assert any(note.startswith("worker 1 ended: ") for note in notes), notes
    losses = [record for record in read_records(settled.folder / METRICS) if "train/loss" in record]
    fed = {record["step"]: record for record in told if "train/loss" in record}
    assert list(fed.values()) == losses and len(losses) == 14


@pytest.mark.slow
def test_two_workers_agree_with_one_to_rounding(connected, tiny_root, two_local_workers):
    """One worker on Ray is one process here, bit for bit; tests/test_world.py bounds what two differ by."""
    for name, wanted in (("local-1", "local"), ("ray-1", "ray")):
        call("train", tiny_root / "llama.toml", f"root={tiny_root}", f"name={name}", f"executor={wanted}")
    assert weights_of(tiny_root / "runs" / "ray-1", 14) == weights_of(tiny_root / "runs" / "local-1", 14)


@pytest.mark.slow
def test_asked_to_stop_the_workers_keep_the_step_and_the_run_goes_on(ray_head, tiny_root):
    """SIGTERM to the driver, as a job's end is: exit code 75, and the state of the last step that was logged."""
    arguments = [tiny_root / "llama.toml", f"root={tiny_root}", "num_workers=2", "budget.steps=30"]
    arguments += [
        "precision.reproducible=across-workers",
        "batch.sequences=8",
        "resume.every_seconds=1000",
        "threads=1",
    ]
    environment = {**os.environ, **SETTINGS, "RAY_ADDRESS": ray_head.address}
    command = [sys.executable, "-m", "suite", "train", *map(str, arguments), "name=ray-stopped", "executor=ray"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    folder = tiny_root / "runs" / "ray-stopped"
    while len(read_records(folder / METRICS)) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 75 and "run the same command again" in said and "Traceback" not in said, said
    [state] = run.resume_steps(folder)
    assert 0 < state == read_records(folder / METRICS)[-1]["step"] < 30
    call("train", *arguments, "name=ray-stopped", "executor=local")
    call("train", *arguments, "name=ray-never-stopped", "num_workers=1", "executor=local")
    assert weights_of(folder, 30) == weights_of(tiny_root / "runs" / "ray-never-stopped", 30)


@pytest.mark.slow
def test_a_users_mistake_is_the_same_line_as_without_ray(connected, tiny_root):
    arguments = [f"root={tiny_root}", "name=ray-diverged", "num_workers=2"]
    with pytest.raises(DivergedError, match="not finite"):
        call("train", tiny_root / "llama.toml", *arguments, "optimizer.learning_rate=1e30", "optimizer.grad_clip=0")


@pytest.mark.slow
def test_a_worker_that_always_dies_ends_the_run_with_a_line(connected, tiny_root):
    arguments = [f"root={tiny_root}", "name=ray-dies", "num_workers=2", "ray.max_failures=1"]
    wanted = load_run([tiny_root / "llama.toml"], arguments)
    settled = run.settle(wanted, run.choices(wanted, 2, lambda: "cpu"))
    with pytest.raises(ExecutorError, match=r"the run failed on Ray: .+"):
        train.launch(ranks.die, settled, 2, "cpu", lambda record: None)


def test_too_few_cpus_or_gpus_are_said_and_not_waited_for(connected, tiny_root):
    arguments = [tiny_root / "llama.toml", f"root={tiny_root}", "name=ray-large", "executor=ray"]
    with pytest.raises(
        ExecutorError, match="no room for 5 workers with 1 CPU each: the cluster has 2 CPU and 0 GPU on 1"
    ):
        call("train", *arguments, "num_workers=5")
    with pytest.raises(ExecutorError, match=r"1 worker with 1 CPU and 0\.5 GPU: the cluster has 2 CPU and 0 GPU on 1"):
        call("train", *arguments, "ray.resources_per_worker.GPU=0.5", "device=cuda")


@pytest.mark.slow
def test_a_cluster_has_its_time_to_make_room(connected, ray_head, monkeypatch, capsys):
    monkeypatch.setenv("RAY_ADDRESS", ray_head.address)
    with pytest.raises(ExecutorError, match="no room for 5 workers"):
        executor.find_room(executor.connect(), 5, {"CPU": 1.0}, seconds=6)
    assert "waiting up to 6 s for room for 5 workers with 1 CPU each; the cluster has 2 CPU" in capsys.readouterr().err


def test_no_cluster_at_the_address(tiny_root):
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    line = refusal("train", tiny_root / "llama.toml", f"root={tiny_root}", "name=nowhere", env=environment)
    assert line == "error: no Ray cluster at 127.0.0.1:1: Connection refused"


def test_another_service_at_the_address(ray_head):
    """The dashboard's port is the easy slip: Ray would try for minutes."""
    executor._knock(ray_head.address)
    with pytest.raises(ExecutorError, match="another service answers there"):
        executor._knock(ray_head.jobs.removeprefix("http://"))


def test_ray_is_not_installed(tiny_root, tmp_path):
    (tmp_path / "ray.py").write_text("raise ImportError('No module named ray')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    line = refusal("train", tiny_root / "llama.toml", f"root={tiny_root}", "name=x", "executor=ray", env=environment)
    assert line == "error: ray is not installed; executor=local works without it"


@pytest.mark.slow
def test_without_an_address_a_ray_is_started_on_this_machine(tiny_root, two_local_workers):
    arguments = ["train", tiny_root / "llama.toml", f"root={tiny_root}", "name=own-ray", "num_workers=2"]
    command = [sys.executable, "-m", "suite", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **SETTINGS}, timeout=240)
    assert done.returncode == 0, done.stderr
    assert weights_of(tiny_root / "runs" / "own-ray", 14) == two_local_workers
