"""cluster/local.yaml for real: two hosts with sshd, `ray up`, jobs that span both, one machine's bytes, `ray down`.

Needs root, and is run by `make cluster-test` alone. The hosts are made of namespaces (hosts.py): one CPU each, no way
out, and a checkout that cannot be imported, so the package on them is the wheel that each job brings.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hosts
from conftest import TINY, TINY_MODELS, call, weights_of
from hosts import HOME, REPO, SHARED, Machine

pytestmark = pytest.mark.cluster

JOBS = "http://127.0.0.1:8265"
YAML = f"{HOME}/local.yaml"
LAUNCHER = {"RAY_UP_enable_autoscaler_v2": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def until(true: Callable[[], bool], seconds: float, otherwise: Callable[[], object]) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.5)


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Machine]]:
    if reason := hosts.missing():
        pytest.fail(reason, pytrace=False)
    with hosts.machines(tmp_path_factory.mktemp("hosts"), "head", "worker") as made:
        yield made
    assert not hosts.left_behind(made)


@pytest.fixture(scope="module")
def desk(machines: list[Machine]) -> Machine:
    """Where `ray` is typed. The cluster is up, and its dashboard is reached as cluster/README.md says."""
    desk, head, worker = machines
    text = (REPO / "cluster" / "local.yaml").read_text()
    filled = {"HEAD_ADDRESS": head.address, "WORKER_ADDRESS": worker.address, "LOGIN": "root", "PRIVATE_KEY": "~/key"}
    for placeholder, value in filled.items():
        assert text.count(placeholder) == 1
        text = text.replace(placeholder, value)
    (desk.home / "local.yaml").write_text(text)
    for host in (head, worker):  # what the setup commands would fetch
        (host.home / "suite-env").symlink_to(REPO / ".venv")
        (host.home / ".suite-uv" / "bin").mkdir(parents=True)
        (host.home / ".suite-uv" / "bin" / "uv").symlink_to(REPO / ".venv" / "bin" / "uv")

    desk.run("ray", "up", "-y", YAML, log="up.log", seconds=300, **LAUNCHER)
    desk.start("ray", "dashboard", YAML, log="dashboard.log", **LAUNCHER)
    until(lambda: len(cpus(desk)) == 2, 300, lambda: in_session(head, "cat monitor*"))
    assert cpus(desk) == {head.address: 1, worker.address: 1}
    for host in (head, worker):
        with pytest.raises(AssertionError, match="No module named 'suite'"):
            host.run("python", "-c", "import suite", log="import.log", seconds=60)
    return desk


def cpus(desk: Machine) -> dict[str, float]:
    """CPUs of the cluster's living nodes by address; empty while nobody answers."""
    command = ["ray", "list", "nodes", "--address", JOBS, "--filter", "state=ALIVE", "--format", "json"]
    try:
        nodes = json.loads(desk.run(*command, log="nodes.log", seconds=60).strip().splitlines()[-1])
    except (AssertionError, ValueError):
        return {}
    return {node["node_ip"]: node["resources_total"]["CPU"] for node in nodes}


def in_session(host: Machine, command: str) -> str:
    """What a shell's command prints in Ray's log folder on a host."""
    return host.run("sh", "-c", f"cd /tmp/ray/session_latest/logs && {command}", log="session.log", seconds=60)


def submit(desk: Machine, name: str, *command: str | Path, root: str = SHARED) -> str:
    """The command of cluster/README.md. Returns what it printed; raises AssertionError with it when the job fails."""
    (wheel,) = (REPO / "dist" / "job").glob("*.whl")
    environment = {"py_modules": [str(wheel.relative_to(REPO))], "env_vars": {"SUITE_ROOT": root}}
    options = ["--address", JOBS, "--working-dir", ".", "--runtime-env-json", json.dumps(environment)]
    return desk.run("ray", "job", "submit", *options, "--", *command, log=f"{name}.log", seconds=400)


def test_shards_made_on_two_hosts_are_those_of_one(desk, machines, tokenizer_dir, tmp_path):
    shared = machines[0].shared
    shutil.copytree(tokenizer_dir, shared / "tokenizer")
    options = ["-i", "stories:2000", "-f", "text", "-s", "train", "-l", "64", "-c", "2000", "--block-bytes", "50000"]
    submit(
        desk, "tokenize", "python", "-m", "suite.tokenize", *options, "-t", "tokenizer", "--out-dir", "tokens/stories"
    )
    call("tokenize", *options, "-t", shared / "tokenizer", "--out-dir", tmp_path, "--executor", "local")
    made, local = (
        {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
        for folder in (shared / "tokens" / "stories", tmp_path)
    )
    assert len(made) > 1 and made == local
    for host in machines[1:]:
        assert "worker-" in in_session(host, "ls"), f"{host.name} had no task"


def test_two_workers_on_two_hosts_train_to_the_bits_of_two_local_ones(desk, machines, tmp_path):
    config = machines[0].shared / "llama.toml"
    config.write_text('name = "llama"\n' + TINY.replace("[data]", f"[model]\n{TINY_MODELS['llama']}[data]"))
    log = submit(desk, "train", "python", "-m", "suite.train", f"{SHARED}/llama.toml", "num_workers=2")
    assert all(re.search(rf"llama: worker [01] of 2 on {host}, cpu", log) for host in ("head", "worker")), log
    call("train", config, f"root={tmp_path}", "num_workers=2", "executor=local")
    assert weights_of(config.parent / "runs" / "llama", 14) == weights_of(tmp_path / "runs" / "llama", 14)
    for host in machines[1:]:
        assert in_session(host, "ls train").count("ray-train-app-worker-") == 1, f"{host.name} had no rank"


def test_a_root_that_one_host_does_not_see_is_an_error_that_names_the_host(desk):
    """/tmp is another folder on each; so is where the tokens of a run that makes its own would lie."""
    keys = ["num_workers=2", "ray.max_failures=0", f"data.tokens={SHARED}/tokens/tiny", "name=nowhere"]
    with pytest.raises(
        AssertionError, match=r"error: node worker does not see /tmp/nowhere.*: several nodes need a root"
    ):
        submit(desk, "nowhere", "python", "-m", "suite.train", f"{SHARED}/llama.toml", *keys, root="/tmp/nowhere")


def test_down_and_a_stop_on_each_worker_end_ray(desk, machines):
    """`ray down` alone leaves the workers: their raylet ends a minute after the head's, a log monitor never."""
    _, head, worker = machines
    desk.run("ray", "down", "-y", YAML, log="down.log", seconds=120, **LAUNCHER)
    assert not [line for line in head.processes() if "ray" in line]
    assert [line for line in worker.processes() if "raylet" in line]
    ssh = ["ssh", "-i", f"{HOME}/key", "-o", "StrictHostKeyChecking=no", f"root@{worker.address}"]
    desk.run(*ssh, "suite-env/bin/ray stop", log="stop.log", seconds=60)
    assert not [line for line in worker.processes() if "ray" in line]


def test_machines_end_with_whoever_made_them():
    if reason := hosts.missing():
        pytest.fail(reason, pytrace=False)
    maker = subprocess.Popen([sys.executable, hosts.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    pids = [maker.stdout.readline().partition("--target ")[2].split()[0] for _ in range(3)]
    namespaces = set().union(*(hosts.namespaces_of(pid) for pid in pids))
    assert len(hosts.processes_in(namespaces)) >= 5  # three first processes and two of sshd
    maker.send_signal(signal.SIGKILL)
    maker.communicate()
    until(lambda: not hosts.processes_in(namespaces), 20, lambda: hosts.processes_in(namespaces))
