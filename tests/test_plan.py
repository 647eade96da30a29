"""`suite plan`: what it says is what the run then does. tests/test_outline.py has the lines that --dry-run shares."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import call
from suite.base.errors import ConfigError
from suite.training import run
from suite.training.config import load_run
from suite.training.plan import Costs, Plan, makespan, plan_of, seconds_left

ONES = Costs(start=1e6, step=1.0, evaluation=100.0, samples=1e4, checkpoint=1e4, resume=0.0, peak_bytes=1)
MORE = ["eval.every=5", "samples.prompts=['Once']", "samples.max_new_tokens=3"]


def planned(root: Path, *overrides: str) -> tuple[Plan, float | None]:
    config = load_run([root / "mamba.toml"], [f"root={root}", *overrides])
    config = run.settle(config, run.choices(config, 1, lambda: "cpu"))
    plan = plan_of(config)
    return plan, seconds_left(config, plan, ONES)


def test_seconds_are_counted_as_the_run_counts(tiny_root: Path):
    """Each part has a cost of its own power of ten, so the sum says how often each happens."""
    arguments = [*MORE, "name=planned"]
    _, whole = planned(tiny_root, *arguments)
    call("train", tiny_root / "mamba.toml", f"root={tiny_root}", *arguments)
    folder = tiny_root / "runs" / "planned"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = sum("train/loss" in record for record in records)
    evaluations = sum("validation/loss" in record for record in records)
    kept = len(run.steps_in(folder))
    assert whole == 1e6 + steps + 100 * evaluations + 2e4 * kept
    plan, left = planned(tiny_root, *arguments)
    assert (plan.from_step, left) == (plan.steps, 0.0)
    text = call("plan", tiny_root / "mamba.toml", f"root={tiny_root}", *arguments)  # it has nothing to probe
    assert "finished at step 14" in text and "\ntime" not in text


def test_what_is_left_of_a_run_that_goes_on(tiny_root: Path):
    plan, whole = planned(tiny_root, "name=half")  # keeps 0, 1, 2, 4, 8, 14
    assert plan.checkpoints == (0, 1, 2, 4, 8, 14) and whole == 1e6 + 14 + 6 * 20_100
    config = load_run([tiny_root / "mamba.toml"], [f"root={tiny_root}", "name=half"])
    left = seconds_left(config, Plan(**{**plan.to_json(), "from_step": 4, "evaluations": 2}), ONES)
    assert left == 1e6 + 10 + 2 * 20_100


def brute(seconds: list[int], processes: int) -> int:
    """Second by second, as side_by_side does it: a free place takes the next."""
    waiting, running, now = [one for one in seconds if one], [], 0
    while waiting or running:
        while waiting and len(running) < processes:
            running.append(waiting.pop(0))
        now += 1
        running = [left - 1 for left in running if left > 1]
    return now


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(1, 4))
def test_the_makespan_is_that_of_members_taken_in_turn(seconds, processes):
    assert makespan(seconds, processes) == brute(seconds, processes)


def test_a_run_is_probed_and_leaves_nothing(tiny_root: Path):
    before = sorted(tiny_root.rglob("*"))
    said = json.loads(call("plan", tiny_root / "mamba.toml", f"root={tiny_root}", *MORE, "name=probed", "--json"))
    assert sorted(tiny_root.rglob("*")) == before
    [plan] = said["runs"]
    costs = plan["costs"]
    assert all(seconds > 0 for seconds in costs.values()) and costs["peak_bytes"] > plan["state_bytes"]
    assert plan["seconds"] == said["seconds"] > 14 * costs["step"] + costs["start"]
    assert plan["tokens"] == 14 * 6 * 383


def test_a_suite_is_a_table_with_its_sum(tiny_root: Path):
    suite = tiny_root / "family.toml"
    suite.write_text('[suite]\nmembers = ["llama.toml", "mamba.toml"]\n')
    arguments = [suite, f"root={tiny_root}", "--no-probe"]
    lines = call("plan", *arguments).splitlines()
    assert [line.split()[0] for line in lines] == ["run", "family/llama", "family/mamba", "total"]
    runs = json.loads(call("plan", *arguments, "--json"))["runs"]
    assert lines[-1].split()[1] == f"{sum(one['parameters'] for one in runs):,}"
    assert all(one["seconds"] is None and one["flops"] > 0 for one in runs)


def test_epochs_of_tokens_that_are_still_to_be_made(tmp_path: Path):
    config = Path(__file__).parents[1] / "configs" / "mamba-100k.toml"
    text = call("plan", config, f"root={tmp_path}", "budget.epochs=1.5", "--no-probe")
    assert "1.5 epochs of rows that are still to be counted" in text and not list(tmp_path.iterdir())


def test_what_the_run_would_refuse_is_refused(tiny_root: Path):
    with pytest.raises(ConfigError, match="beyond the run's 14 steps"):
        call("plan", tiny_root / "llama.toml", f"root={tiny_root}", "checkpoints.extra=[99]")
