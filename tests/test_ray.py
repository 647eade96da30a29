"""The same bytes through Ray: shards by Ray Data, weights by Ray Train, also when a worker is killed.

One Ray for all of them, started here on loopback and ended here.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conftest import call, weights_of
from suite.base.errors import DivergedError, ExecutorError
from suite.data import pack, tokenizer
from suite.data.pack import Shape
from suite.data.source import Source
from suite.data.spill import two_passes
from suite.executor import choose, local
from suite.executor import ray as executor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def ray():
    import ray

    os.environ.update(
        RAY_USAGE_STATS_ENABLED="0",
        RAY_AUTH_MODE="disabled",
        RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.2",
        RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",
    )
    assert "RAY_ADDRESS" not in os.environ, "the tests start a Ray of their own"
    ray.init(address="local", num_cpus=2, object_store_memory=100_000_000, log_to_driver=False)
    yield ray
    ray.shutdown()


def test_auto_is_ray_in_a_job_and_for_several_workers(monkeypatch):
    assert (choose("auto"), choose("auto", 2), choose("local", 2)) == ("local", "ray", "local")
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert (choose("auto"), choose("local")) == ("ray", "local")


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_shards_are_the_local_ones(corpus, tokenizer_dir, tmp_path, workers):
    made = []
    for name, work in (
        ("ray", two_passes(executor.map_anywhere(workers))),
        ("local", pack.one_pass(local.map_in_order(1))),
    ):
        shape, encoder = Shape(16, rows_per_shard=150), tokenizer.load(tokenizer_dir)
        tokens, _ = pack.tokenize(
            Source(str(corpus)), encoder, tmp_path / name, shape, work, name="train", block_bytes=3000
        )
        made.append(tokens.split("train"))
    assert made[0] == made[1]


@pytest.fixture(scope="module")
def two_local_workers(tiny_root: Path) -> bytes:
    arguments = [f"root={tiny_root}", "name=local-2", "num_workers=2", "executor=local"]
    call("train", tiny_root / "llama.toml", *arguments)
    return weights_of(tiny_root / "runs" / "local-2", 14)


def test_two_workers_train_to_the_bits_of_two_local_ones_and_a_finished_run_starts_none(tiny_root, two_local_workers):
    arguments = [tiny_root / "llama.toml", f"root={tiny_root}", "name=ray-2", "num_workers=2"]
    call("train", *arguments)
    assert weights_of(tiny_root / "runs" / "ray-2", 14) == two_local_workers
    assert "nothing to do" in call("train", *arguments)
    assert not (tiny_root / ".ray").exists()


def test_a_worker_killed_in_a_step_changes_nothing(ray, tiny_root, two_local_workers):
    import ranks
    from suite.training import run
    from suite.training.config import load_run

    ray.cloudpickle.register_pickle_by_value(ranks)  # Ray's workers do not see the folder of tests
    wanted = load_run([tiny_root / "llama.toml"], [f"root={tiny_root}", "name=ray-killed", "num_workers=2"])
    settled = run.settle(wanted, run.choices(wanted, 2))
    executor.launch(ranks.train_but_die_once, settled, 2, "cpu")
    assert (tiny_root / "runs" / "ray-killed" / "died").exists()
    assert weights_of(tiny_root / "runs" / "ray-killed", 14) == two_local_workers


def test_a_users_mistake_is_the_same_line_as_without_ray(tiny_root):
    arguments = [f"root={tiny_root}", "name=ray-diverged", "num_workers=2"]
    with pytest.raises(DivergedError, match="not finite"):
        call("train", tiny_root / "llama.toml", *arguments, "optimizer.learning_rate=1e30", "optimizer.grad_clip=0")


def test_too_few_cpus_are_said_at_once(tiny_root):
    with pytest.raises(ExecutorError, match="the cluster has 2 CPUs and 0 GPUs; 5 CPUs"):
        call("train", tiny_root / "llama.toml", f"root={tiny_root}", "name=ray-large", "num_workers=5")


def test_no_cluster_at_the_address(tiny_root):
    import subprocess
    import sys

    command = [sys.executable, "-m", "suite", "train", tiny_root / "llama.toml", f"root={tiny_root}", "name=nowhere"]
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 1 and "error: no Ray cluster at 127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
