"""A sweep finds the rate it should, says so when it cannot, and trains nothing twice."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import call, weights_of
from suite.base.errors import ConfigError
from suite.training import run
from suite.training.config import load_run
from suite.training.rates import Best, best_rate, fit_law
from suite.training.sweep import parse_rates, runs_of

RATES = parse_rates("1e-3:6.4e-2:7")


@given(vertex=st.floats(3e-3, 2e-2), bend=st.floats(1e-3, 10), seeds=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_the_vertex_of_a_parabola_is_found(vertex, bend, seeds):
    losses = {rate: [3 + bend * math.log(rate / vertex) ** 2] * seeds for rate in RATES}
    best = best_rate(losses)
    # Rounding in losses of about 3 moves the vertex by some 1e-16 / bend in log rate; 1e-9 leaves room for the solver.
    assert not best.why and abs(best.rate / vertex - 1) < 1e-9 and abs(best.loss - 3) < 1e-9


def test_the_interval_holds_the_truth_nine_times_in_ten():
    draw = np.random.default_rng(0)
    inside, trials = 0, 1000
    for _ in range(trials):
        losses = {rate: list(3 + 0.1 * math.log(rate / 8e-3) ** 2 + 0.01 * draw.normal(size=2)) for rate in RATES}
        best = best_rate(losses)
        assert not best.why and best.low is not None and best.high is not None
        inside += best.low <= 8e-3 <= best.high
    # 0.9 +- 3 standard deviations of a count of 1,000; choosing the window by the lowest loss costs little of it
    assert 0.87 < inside / trials < 0.93


@pytest.mark.parametrize(
    "shape, why",
    [
        (lambda x: [x], "sweep lower ones"),
        (lambda x: [-x], "sweep higher ones"),
        (lambda x: [None if x > 0.1 else -x], "the next higher rate diverges"),
        (lambda x: [(x - 0.1) ** 2, None if x > 0.1 else 1.0], "the next higher rate diverges"),
        (lambda x: [0.0 if abs(x) < 0.1 else 1.0 if abs(x) < 1 else 0.1], "no parabola"),
    ],
)
def test_what_is_no_estimate_is_not_taken_for_one(shape, why):
    best = best_rate({rate: shape(math.log(rate / 8e-3)) for rate in RATES})
    assert why in best.why
    assert fit_law([1e3, 1e4], [best, Best(1e-3, 9e-4, 1.1e-3, 3.0)]) is None


def test_a_law_over_sizes_goes_on_and_its_interval_widens():
    sizes = [1e3, 1e4, 1e5]
    law = fit_law(sizes, [Best(r := 0.3 * size**-0.25, r / 1.2, r * 1.2, 3.0) for size in sizes])
    assert law is not None and abs(law.exponent + 0.25) < 1e-9 and law.largest == 1e5
    widths = []
    for size in (1e4, 1e6, 1e8):
        rate, low, high = law.at(size)
        assert abs(rate / (0.3 * size**-0.25) - 1) < 1e-9
        widths.append(high / low)
    assert widths == sorted(widths) and widths[2] > 1.5 * widths[0]


def test_rates_are_equal_factors_apart():
    assert parse_rates("1e-4:1e-2:3") == [1e-4, 1e-3, 1e-2] == parse_rates("1e-2,1e-4,1e-3")
    for wrong in ("1e-2:1e-4:3", "0:1:3", "1e-4:1e-2:2", "fast", "1e-3,-1e-3"):
        with pytest.raises(ConfigError, match="--rates"):
            parse_rates(wrong)


def test_what_a_sweep_sets_is_not_given(tiny_root):
    with pytest.raises(ConfigError, match="a sweep sets name, seed"):
        runs_of([tiny_root / "llama.toml"], RATES, 1, 3, "x", ["optimizer.learning_rate=1e-3"])


def test_a_sweep_is_normal_runs_and_is_done_once(tiny_root):
    wide = tiny_root / "wide.toml"
    wide.write_text('extends = "llama.toml"\nname = "wide"\n[model]\nhidden_size = 24\n')
    small, operational = tiny_root / "llama.toml", [f"root={tiny_root}", "resume.every_seconds=60"]
    asked = ["--rates", "1e-2,1e-1,1e30", "--steps", 4, "--processes", 1, "--name", "tiny", "--for", wide]
    command = [small, wide, *asked, *operational]
    said = call("sweep", *command)
    folder = tiny_root / "runs" / "sweep-tiny"
    found = json.loads((folder / "sweep.json").read_text())
    assert [entry["member"] for entry in found["sizes"]] == ["llama", "wide"]
    for entry in found["sizes"]:
        assert entry["losses"]["1.00e30"] == [None] and entry["losses"]["1.00e-02"][0] < 6
    assert "diverged" in said and "6 runs, 6 to be trained" in said

    same = load_run(
        [tiny_root / "llama.toml"],
        [f"root={tiny_root}", "name=alone", "optimizer.learning_rate=1e-2", "budget.steps=4"],
    )
    run.train_alone(run.settle(same, run.choices(same, 1, lambda: "cpu")))
    swept = folder / "llama" / "rate-1.00e-02" / "seed-0"
    assert weights_of(tiny_root / "runs" / "alone", 4) == weights_of(swept, 4)

    before = {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "sweep.json" and path.is_file()
    }
    assert "6 runs, 0 to be trained" in call("sweep", *command)
    call("sweep", small, "--rates", "1e-2", "--steps", 4, "--name", "tiny", *operational)
    (entry,) = json.loads((folder / "sweep.json").read_text())["sizes"]
    assert len(entry["losses"]) == 3, "what was tried before with other rates counts"
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_the_coordinate_check_is_a_command(tiny_root):
    said = call(
        "sweep", tiny_root / "mamba.toml", "--coordinates", "12,24", "--steps", 2, f"root={tiny_root}", "threads=1"
    )
    assert "mamba, standard" in said and "mamba, mup" in said and "logits" in said
