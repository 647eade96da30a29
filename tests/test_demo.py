"""The demo, small: four models side by side to the end, and nothing to do the second time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import run_suite

CONFIG = Path(__file__).parents[1] / "configs" / "demo.toml"
SMALL = ["data.source=stories:400", "budget.tokens=9_000", "eval.rows=8", "samples.max_new_tokens=8"]


def test_the_demo_ends_with_a_table_and_stories_and_then_has_nothing_to_do(tmp_path):
    options = {"env": {**os.environ, "SUITE_ROOT": str(tmp_path)}}
    done = run_suite("demo", CONFIG, *SMALL, **options)
    table, *_ = done.stdout.split("next: suite generate")
    for name in ("llama-500k", "mamba-500k", "llama-50k", "mamba-50k"):
        assert f"demo/{name}" in table
        assert (tmp_path / "runs" / "demo" / name / "step-00000009" / "manifest.json").exists()
    assert done.stdout.count("Once upon a time,") >= 4 and "above" in table
    began = time.monotonic()
    again = run_suite("demo", CONFIG, *SMALL, **options)
    assert "every run is finished; nothing to do" in again.stdout
    assert time.monotonic() - began < 30  # it imports no torch and starts no process; the bound is for a busy machine


def test_ctrl_c_says_how_to_go_on_and_the_demo_goes_on(tmp_path):
    environment = {**os.environ, "SUITE_ROOT": str(tmp_path)}
    command = [sys.executable, "-m", "suite", "demo", str(CONFIG), *SMALL]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/demo/*/step-00000001/manifest.json")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "run the same command again to go on" in said and "Traceback" not in said
    assert run_suite("demo", CONFIG, *SMALL, env=environment).returncode == 0
