"""metrics.jsonl is the truth; W&B is a copy, and its failure a warning."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from conftest import call
from suite.base.errors import SealError
from suite.base.tracker import METRICS, Follower, Tracker, read_records, truncate


def test_records_survive_a_cut_last_line_and_truncate(tmp_path):
    path = tmp_path / METRICS
    path.write_text('{"step": 1}\n{"step": 2, "a": 1}\n{"step": 3}\n{"st')
    assert read_records(path) == [{"step": 1}, {"step": 2, "a": 1}, {"step": 3}]
    truncate(path, lambda record: record["step"] <= 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2, "a": 1}\n'


def test_a_follower_reads_each_record_once_and_starts_over_when_some_were_dropped(tmp_path):
    follower = Follower(tmp_path / METRICS)
    assert follower.more() == []
    with (tmp_path / METRICS).open("w", buffering=1) as file:
        file.write('{"step": 1}\n{"ste')
        file.flush()
        assert follower.more() == [{"step": 1}]
        file.write('p": 2}\n')
        assert follower.more() == [{"step": 2}] and follower.more() == []
    truncate(tmp_path / METRICS, lambda record: record["step"] < 2)
    assert follower.more() == [{"step": 1}]


def test_a_damaged_line_is_an_error(tmp_path):
    (tmp_path / METRICS).write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(SealError, match="not JSON"):
        read_records(tmp_path / METRICS)


NAMES = (b"train/loss", b"validation/loss")


def test_wandb_offline_records_every_step_under_one_run(tiny_root: Path):
    arguments = ["tracker.type=wandb", "tracker.project=tests", "name=tracked", "budget.steps=3"]
    call("train", tiny_root / "llama.toml", f"root={tiny_root}", *arguments)  # conftest says WANDB_MODE=offline
    run = tiny_root / "runs" / "tracked"
    [offline] = run.glob("wandb/offline-run-*")
    run_id = json.loads((run / "wandb.json").read_text())["id"]
    assert offline.name.endswith(run_id)
    deadline = time.monotonic() + 30  # W&B's own process writes its file, after its finish() too
    while not all(name in b"".join(path.read_bytes() for path in offline.rglob("*.wandb")) for name in NAMES):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    steps = [record["step"] for record in read_records(run / METRICS) if "train/loss" in record]
    assert steps == [1, 2, 3]


def test_a_tracker_that_fails_is_a_warning(tmp_path, monkeypatch, capsys):
    import wandb

    def no_server(**options):
        raise OSError("no route to W&B")

    monkeypatch.setattr(wandb, "init", no_server)
    with Tracker(tmp_path, "wandb", "project", "run", {}) as tracker:
        tracker.log(1, {"train/loss": 2.0})
    assert read_records(tmp_path / METRICS) == [{"step": 1, "train/loss": 2.0}]
    assert capsys.readouterr().err.count("warning: W&B is off for this run (no route to W&B)") == 1
