"""Layers, overrides and what they may not do; every bug of delphi's override parser as a regression."""

from __future__ import annotations

import itertools
import math
import pickle
from pathlib import Path

import pytest
import tomli

from suite.base import errors
from suite.base.config import load_layers, parse_override, to_toml, validate
from suite.base.errors import ConfigError
from suite.training.config import RunConfig, load_run
from suite.training.schedule import checkpoint_steps, decay_step, learning_rate
from suite.training.suite import load_suite

MODEL = (
    '[model]\ntype = "llama"\nhidden_size = 8\nintermediate_size = 8\nnum_hidden_layers = 1\nnum_attention_heads = 2\n'
)
RUN = 'name = "a"\n' + MODEL + '[data]\ntokens = "t"\n[budget]\nsteps = 10\n'
MAMBA = Path(__file__).parents[1] / "configs" / "mamba-100k.toml"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=false", False),  # bool("false") is True
        ("a.b=42", 42),  # stayed a string
        ("a.b=[1, 2]", [1, 2]),  # became characters
        ("a.b=x=y", "x=y"),  # raised
        ("a.b=try", "try"),
        ('a.b="42"', "42"),
        ("a.b=1e-3", 1e-3),
        ("a.b=", ""),
        ("a.b=1_000", 1000),
    ],
)
def test_overrides_have_types(text, value):
    path, found = parse_override(text)
    assert path == ("a", "b") and found == value and type(found) is type(value)


def test_layers_merge_left_to_right_and_parents_first(tmp_path):
    (tmp_path / "base.toml").write_text("a = 1\nb = 1\n[s]\nx = 1\ny = 1\n")
    (tmp_path / "one.toml").write_text('extends = "base.toml"\nb = 2\n[s]\ny = 2\n')
    (tmp_path / "two.toml").write_text("c = 3\n[s]\nz = 3\n")
    table, _ = load_layers([tmp_path / "one.toml", tmp_path / "two.toml"], ["s.x=9"])
    assert table == {"a": 1, "b": 2, "c": 3, "s": {"x": 9, "y": 2, "z": 3}}


def test_one_kind_of_budget_replaces_another(tmp_path):
    (tmp_path / "a.toml").write_text(RUN)
    config = load_run([tmp_path / "a.toml"], ["budget.epochs=2.0"])
    assert (config.budget.epochs, config.budget.steps) == (2.0, None)
    with pytest.raises(ConfigError, match="one of steps, epochs or tokens"):
        (tmp_path / "b.toml").write_text("[budget]\nepochs = 1.0\ntokens = 5\n")
        load_run([tmp_path / "a.toml", tmp_path / "b.toml"], [])


def test_a_file_that_extends_itself_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text('extends = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extends = "a.toml"\n')
    with pytest.raises(ConfigError, match="extends itself"):
        load_layers([tmp_path / "a.toml"])


def test_a_resolved_config_reads_back_the_same(tmp_path):
    (tmp_path / "a.toml").write_text(RUN)
    config = load_run([tmp_path / "a.toml"], ["optimizer.betas=[0.8, 0.99]"])
    assert validate(RunConfig, tomli.loads(to_toml(config))) == config


def test_another_architecture_forgets_the_fields_of_the_first(tmp_path):
    (tmp_path / "a.toml").write_text(RUN)
    (tmp_path / "m.toml").write_text('[model]\ntype = "mamba"\nhidden_size = 8\nnum_hidden_layers = 1\n')
    assert load_run([tmp_path / "a.toml", tmp_path / "m.toml"], []).model.type == "mamba"


def test_mistakes_name_the_file_they_are_in(tmp_path):
    (tmp_path / "a.toml").write_text(RUN)
    (tmp_path / "b.toml").write_text("[optimizer]\nleraning_rate = 3\n[model]\nhiden_size = 4\n")
    with pytest.raises(ConfigError) as caught:
        load_run([tmp_path / "a.toml", tmp_path / "b.toml"], [])
    assert f"{tmp_path / 'b.toml'}: optimizer.leraning_rate: unknown key; did you mean 'learning_rate'?" in str(
        caught.value
    )
    assert f"{tmp_path / 'b.toml'}: model.hiden_size: unknown key; did you mean 'hidden_size'?" in str(caught.value)


def test_a_suite_gives_its_members_what_it_shares(tmp_path):
    (tmp_path / "suite.toml").write_text(
        'name = "s"\n[suite]\nmembers = ["a.toml", "b.toml"]\n[data]\ntokens = "t"\n[budget]\nsteps = 5\n'
    )
    (tmp_path / "a.toml").write_text('name = "a"\n' + MODEL)
    (tmp_path / "b.toml").write_text('name = "b"\n' + MODEL + "[budget]\nsteps = 7\n")
    _, (a, b) = load_suite(tmp_path / "suite.toml", ["seed=3"])
    assert (a.name, b.name, a.budget.steps, b.budget.steps) == ("s/a", "s/b", 5, 7)
    assert a.threads == 1 and a.seed == b.seed == 3
    (tmp_path / "b.toml").write_text('name = "a"\n' + MODEL)
    with pytest.raises(ConfigError, match="same name"):
        load_suite(tmp_path / "suite.toml", [])


def run_config(**sections) -> RunConfig:
    table = tomli.loads(RUN)
    return validate(RunConfig, {**table, **sections})


@pytest.mark.parametrize("kind", ["cosine", "wsd", "linear", "constant"])
def test_learning_rates(kind):
    config = run_config(
        optimizer={"learning_rate": 1.0}, schedule={"type": kind, "warmup_steps": 10, "min_learning_rate": 0.1}
    )
    rates = [learning_rate(step, 100, config.optimizer, config.schedule) for step in range(100)]
    assert (
        rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    )  # warm-up begins above 0 and ends at the peak
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))
    if kind == "constant":
        assert rates[-1] == 1.0
    else:
        assert 0.1 < rates[-1] < 0.2
    if kind == "wsd":
        assert rates[79] == 1.0 > rates[80]  # the last fifth falls


@pytest.mark.parametrize("shape", ["linear", "sqrt", "cosine"])
def test_shapes_of_wsds_decay(shape):
    """Each is its paper's function of x, the part of the decay that is over; the update before it has the peak."""
    keys = {"type": "wsd", "decay_steps": 9, "decay_type": shape, "min_learning_rate": 0.1}
    config = run_config(optimizer={"learning_rate": 1.0}, schedule=keys)
    begins = decay_step(config.schedule, 30)
    assert begins == 21
    rates = [learning_rate(step, 30, config.optimizer, config.schedule) for step in range(30)]
    x = [max(0, k - begins + 1) / 10 for k in range(30)]
    left = [{"linear": 1 - one, "sqrt": 1 - one**0.5, "cosine": math.cos(math.pi * one) / 2 + 0.5}[shape] for one in x]
    assert rates == pytest.approx([0.1 + 0.9 * one for one in left], rel=1e-12)
    assert rates[20] == 1.0 > rates[21]


@pytest.mark.parametrize(("keys", "line"), [
    ({"warmup_steps": 1, "warmup_tokens": 9}, "one of warmup_steps or warmup_tokens"),
    ({"decay_steps": 1, "decay_fraction": 0.5}, "one of decay_fraction or decay_steps"),
])  # fmt: skip
def test_a_schedule_has_one_measure(keys, line, tmp_path):
    with pytest.raises(ConfigError, match=line):
        run_config(schedule=keys)
    first, second = ({key: value} for key, value in keys.items())
    (tmp_path / "a.toml").write_text(RUN)
    said = [f"schedule.{key}={value}" for key, value in {**first, **second}.items()]
    schedule = load_run([tmp_path / "a.toml"], said).schedule  # the later layer takes the place of the earlier
    assert schedule == run_config(schedule=second).schedule


@pytest.mark.parametrize(
    ("section", "total", "steps"),
    [
        ({"per_octave": 1, "linear": 0}, 40, [0, 1, 2, 4, 8, 16, 32, 40]),
        ({"per_octave": 2, "linear": 0}, 33, [0, 1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 33]),
        ({"per_octave": 0, "linear": 4}, 40, [0, 10, 20, 30, 40]),
        ({"per_octave": 0, "linear": 0, "every": 15, "extra": [7, 99]}, 40, [0, 7, 15, 30, 40]),
        ({"per_octave": 0, "linear": 0}, 1, [0, 1]),
        ({"preset": "pythia"}, 2500, [0, *(2**k for k in range(10)), 1000, 2000, 2500]),
        ({"preset": "delphi"}, 900, [0, *(2**k for k in range(9)), 400, 512, 800, 900]),
        ({"preset": "octaves"}, 10, [0, 1, 2, 3, 4, 6, 8, 10]),
        ({"preset": "every", "every": 4}, 10, [0, 4, 8, 10]),
    ],
)
def test_checkpoint_steps(section, total, steps):
    config = run_config(checkpoints=section)
    assert checkpoint_steps(config.checkpoints, total, config.schedule) == sorted(steps)


def test_the_step_before_wsds_decay_is_always_kept():
    config = run_config(schedule={"type": "wsd", "decay_steps": 12}, checkpoints={"preset": "every", "every": 25})
    assert checkpoint_steps(config.checkpoints, 40, config.schedule) == [0, 25, 28, 40]
    more = run_config(checkpoints={"preset": "every", "every": 25, "in_decay": 3}).checkpoints
    assert checkpoint_steps(more, 40, config.schedule) == [0, 25, 28, 32, 36, 40]


@pytest.mark.parametrize("section", [{"preset": "every"}, {"preset": "octaves", "per_octave": 0}])
def test_a_preset_that_keeps_nothing_is_refused(section):
    with pytest.raises(ConfigError, match="needs checkpoints"):
        run_config(checkpoints=section)


@pytest.mark.parametrize(
    ("budget", "steps"), [({"steps": 7}, 7), ({"epochs": 2.0}, 20), ({"tokens": 8 * 511 * 3 + 1}, 4)]
)
def test_budgets(budget, steps):
    assert run_config(budget=budget).budget.num_steps(80, 8, 511) == steps


def test_errors_survive_their_way_through_processes():
    for kind in errors.SuiteError.__subclasses__():
        back = pickle.loads(pickle.dumps(kind("a line")))
        assert type(back) is kind and str(back) == "a line"


@pytest.mark.parametrize("keys", [
    ["ray.use_gpu=false", "device=cuda"], ["ray.use_gpu=true", "device=cpu"],
    ["ray.use_gpu=false", "ray.resources_per_worker.GPU=1"], ["device=cpu", "ray.resources_per_worker.GPU=1"],
])  # fmt: skip
def test_contradictions_about_the_gpu(keys):
    config = load_run([MAMBA], keys)  # by itself, and for the local executor, it is as good as any
    with pytest.raises(ConfigError, match="contradict each other"):
        config.check_for_ray()


def test_workers_do_not_share_a_gpu():
    with pytest.raises(ConfigError, match="cannot share a GPU"):
        load_run([MAMBA], ["num_workers=2", "ray.resources_per_worker.GPU=0.5", "device=cuda"]).check_for_ray()
    load_run([MAMBA], ["ray.resources_per_worker.GPU=0.5", "device=cuda"]).check_for_ray()
