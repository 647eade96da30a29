"""Early stopping: a function of the losses, the same for a run that was killed and on every rank."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import call, weights_of
from suite.base.tracker import METRICS, read_records
from suite.training.early import LOSS, Patience, replayed
from suite.training.moments import EarlyStoppingConfig
from suite.training.run import resume_steps, steps_in

# With the cosine's slow end the loss falls by less than this in two evaluations, before the 40 steps are over.
KEYS = ["early_stopping.patience=2", "early_stopping.min_delta=0.06", "eval.every=2", "budget.steps=40",
        "checkpoints.per_octave=0"]  # fmt: skip


@given(
    losses=st.lists(st.floats(0, 4) | st.just(float("nan")), max_size=20),
    patience=st.integers(1, 4),
    min_delta=st.floats(0, 1),
)
def test_it_ends_after_so_many_that_are_no_better_than_the_best_before(losses, patience, min_delta):
    def improves(number: int) -> bool:
        best = float("inf")
        for loss in losses[:number]:
            best = loss if loss < best - min_delta else best
        return losses[number] < best - min_delta

    better = [improves(number) for number in range(len(losses))]
    ends = [number for number in range(len(losses)) if number + 1 >= patience
            and not any(better[number + 1 - patience : number + 1])]  # fmt: skip
    records = [{"step": 3 * number, LOSS: loss} for number, loss in enumerate(losses)]
    config = EarlyStoppingConfig(patience=patience, min_delta=min_delta)
    patient, step = replayed(config, records)
    assert step == (3 * ends[0] if ends else None)
    again = Patience(config)
    assert [again.ends_with(loss) for loss in losses].count(True) == len(ends)
    if not ends and losses:  # what a resumed run goes on with is what the run left alone has
        assert (patient.best, patient.waited) == (again.best, again.waited)


@pytest.fixture(scope="module")
def stopped(tiny_root: Path) -> Path:
    said = call("train", tiny_root / "mamba.toml", f"root={tiny_root}", "name=early", "resume.keep=4", *KEYS)
    assert "ended early, 2 evaluations without a better one" in said
    return tiny_root


def losses(run: Path) -> list[tuple[int, float]]:
    return [(record["step"], record[LOSS]) for record in read_records(run / METRICS) if LOSS in record]


def test_a_run_that_ended_early_is_sealed_and_finished(stopped: Path):
    run = stopped / "runs" / "early"
    last = losses(run)[-1][0]
    assert 10 < last < 40 and steps_in(run)[-1] == last == resume_steps(run)[-1]
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    arguments = [stopped / "mamba.toml", f"root={stopped}", "name=early", "resume.keep=4", *KEYS]
    assert f"finished at step {last}; nothing to do" in call("train", *arguments)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


@pytest.mark.parametrize("states", [1, 3, 4])
def test_killed_before_its_end_it_ends_there_again(stopped: Path, tmp_path: Path, states: int):
    """From the state of the last step, from one between evaluations, and from one before them."""
    run, again = stopped / "runs" / "early", tmp_path / "runs" / "early"
    shutil.copytree(stopped / "tokens", tmp_path / "tokens")
    shutil.copytree(run, again)
    last = steps_in(run)[-1]
    (again / f"step-{last:08d}" / "manifest.json").unlink()
    for step in resume_steps(run)[:-states:-1]:
        shutil.rmtree(again / f"resume-{step:08d}")
    call("train", stopped / "mamba.toml", f"root={tmp_path}", "name=early", "resume.keep=4", *KEYS)
    assert weights_of(again, last) == weights_of(run, last) and steps_in(again) == steps_in(run)
    assert losses(again) == losses(run)
    starts = json.loads((again / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, last + 1 - states]


@pytest.mark.slow
def test_all_ranks_end_at_the_same_step(stopped: Path):
    arguments = [stopped / "mamba.toml", f"root={stopped}", "name=early-two", "num_workers=2", "executor=local", *KEYS]
    call("train", *arguments)
    two, one = (steps_in(stopped / "runs" / name)[-1] for name in ("early-two", "early"))
    assert two == one
    assert "nothing to do" in call("train", *arguments)
