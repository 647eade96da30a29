"""`ray job submit` against a real head, in the words of the README.

The package travels as the wheel of `make wheel`; what a job makes lies under SUITE_ROOT; the same command goes on.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import call, weights_of
from head import SETTINGS, Head
from suite.base.tracker import METRICS, read_records
from suite.training.run import steps_in

HOME = Path(__file__).parents[1]
RUN = [
    "data.source=stories:400", "data.vocab_size=300", "budget.steps=300", "schedule.warmup_steps=2",
    "batch.sequences=4", "checkpoints.linear=2", "eval.rows=8", "samples.max_new_tokens=5", "resume.every_seconds=0",
]  # fmt: skip

pytestmark = pytest.mark.slow

Submit = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """The README's block about jobs: `make wheel`, ENV=..., and a submission for each of train and tokenize."""
    blocks = re.findall(r"```bash\n(.*?)```", (HOME / "README.md").read_text(), re.S)
    [block] = [block for block in blocks if "ray job submit" in block and "make wheel" in block]
    lines = block.replace("\\\n", " ").splitlines()
    subprocess.run(["bash", "-c", next(line for line in lines if line.startswith("make wheel"))], cwd=HOME, check=True)
    return lines


@pytest.fixture(scope="module")
def submit(ray_head: Head, lines: list[str]) -> Submit:
    """The README's submission of a verb, with more arguments behind it, under another root."""

    def submit(verb: str, *arguments: str, root: Path | str) -> subprocess.CompletedProcess[str]:
        [define] = [line for line in lines if line.startswith("ENV=")]
        [command] = [line for line in lines if f"python -m suite.{verb}" in line]
        environment = {**os.environ, **SETTINGS, "RAY_API_SERVER_ADDRESS": ray_head.jobs, "SUITE_ROOT": str(root)}
        return subprocess.run(
            ["bash", "-c", f"{define}\n{command} {shlex.join(arguments)}"],
            cwd=HOME, env=environment, text=True, timeout=300, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return submit


def ray(head: Head, *arguments: str) -> str:
    environment = {**os.environ, **SETTINGS, "RAY_API_SERVER_ADDRESS": head.jobs}
    done = subprocess.run(
        ["ray", *arguments], env=environment, text=True, timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout


def test_a_job_that_is_stopped_and_submitted_again_ends_in_the_local_weights(submit, ray_head, tmp_path):
    shared, here = tmp_path / "shared", tmp_path / "here"
    metrics = shared / "runs" / "mamba-100k" / METRICS

    first: list[subprocess.CompletedProcess] = []
    following = threading.Thread(target=lambda: first.append(submit("train", *RUN, root=shared)))
    following.start()
    deadline = time.monotonic() + 200
    jobs: list[str] = []
    while not jobs and following.is_alive() and time.monotonic() < deadline:
        jobs = re.findall(r"raysubmit_\w+", ray(ray_head, "job", "list"))
    while len(read_records(metrics)) < 6 and following.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "was stopped" in ray(ray_head, "job", "stop", jobs[0])
    following.join()
    assert "was stopped" in first[0].stdout and "validation" in first[0].stdout  # its log came while it ran
    assert 0 < max(steps_in(metrics.parent)) < 300

    again = submit("train", *RUN, root=shared)
    assert again.returncode == 0, again.stdout
    assert "mamba-100k: going on from step " in again.stdout and "succeeded" in again.stdout
    call("train", HOME / "configs" / "mamba-100k.toml", *RUN, f"root={here}")
    assert weights_of(metrics.parent, 300) == weights_of(here / "runs" / "mamba-100k", 300)
    assert "finished at step 300; nothing to do" in submit("train", *RUN, root=shared).stdout


def test_a_config_that_fails_is_a_job_that_fails(submit, tmp_path):
    done = submit("train", "model.hidden=3", root=tmp_path)
    assert done.returncode == 1 and "error: model.hidden: unknown key" in done.stdout and "failed" in done.stdout


def test_a_relative_root_is_refused(submit):
    done = submit("train", root="work")
    assert done.returncode == 1 and "error: root work: inside a Ray job a relative root is a copy" in done.stdout


def test_a_job_that_tokenizes_writes_the_local_shards_under_the_root(submit, tmp_path):
    arguments = ["-i", "stories:500", "-c", "100", "--block-bytes", "10000"]
    options = ["-f", "text", "-s", "train", "-l", "512"]
    call("train_tokenizer", "-i", "stories:300", "-v", "300", "--out-dir", tmp_path / "tokenizers" / "stories")
    done = submit("tokenize", *arguments, root=tmp_path)
    assert done.returncode == 0, done.stdout
    call("tokenize", *options, *arguments, "-t", tmp_path / "tokenizers" / "stories", "--out-dir", tmp_path / "local")
    shards = sorted(path.name for path in (tmp_path / "local").glob("*.parquet"))
    assert len(shards) > 1
    for name in [*shards, "manifest.json"]:
        assert (tmp_path / "tokens" / "stories" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()
