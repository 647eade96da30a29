"""The demo, small: four models side by side to the end, and nothing to do the second time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import run_suite
from suite.base.errors import SealError
from suite.base.store import hold

CONFIG = Path(__file__).parents[1] / "configs" / "demo.toml"
SMALL = [
    "data.source=stories:400",
    "budget.tokens=9_000",
    "eval.rows=8",
    "samples.max_new_tokens=8",
    "schedule.warmup_steps=3",
]


def test_the_demo_ends_with_a_table_and_stories_and_then_has_nothing_to_do(tmp_path):
    options = {"env": {**os.environ, "SUITE_ROOT": str(tmp_path)}}
    done = run_suite("demo", CONFIG, *SMALL, **options)
    table, *_ = done.stdout.split("next: suite generate")
    for name in ("llama-500k", "mamba-500k", "llama-50k", "mamba-50k"):
        assert f"demo/{name}" in table
        assert (tmp_path / "runs" / "demo" / name / "step-00000009" / "manifest.json").exists()
    assert done.stdout.count("Once upon a time,") >= 4 and "above" in table
    command = [sys.executable, "-X", "importtime", "-m", "suite", "demo", str(CONFIG), *SMALL]
    again = subprocess.run(command, capture_output=True, text=True, check=True, **options)
    assert "every run is finished; nothing to do" in again.stdout
    assert "| torch" not in again.stderr.replace("|   ", "| ")  # which is most of the seconds it would take


@pytest.mark.parametrize(
    "number", [*(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGINT, signal.SIGTERM)), signal.SIGKILL]
)
def test_a_signal_ends_all_processes_and_the_demo_goes_on(tmp_path, number):
    """Also when nobody can clean up: a trainer that outlived the demo would go on writing, and hold its run."""
    environment = {**os.environ, "SUITE_ROOT": str(tmp_path)}
    command = [sys.executable, "-m", "suite", "demo", str(CONFIG), *SMALL]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/demo/*/step-00000001/manifest.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if number != signal.SIGKILL:
        assert (
            process.returncode == (130 if number == signal.SIGINT else 75)
            and "run the same command again to go on" in said
        )
        assert "Traceback" not in said
    deadline = time.monotonic() + 20
    while held(tmp_path):
        assert time.monotonic() < deadline, "a trainer has outlived the demo"
        time.sleep(0.1)


def held(root: Path) -> list[str]:
    """Runs that some process still has."""
    found = []
    for lock in root.glob("runs/demo/*/.lock"):
        try:
            hold(lock.parent).close()
        except SealError:
            found.append(lock.parent.name)
    return found
