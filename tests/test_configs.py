"""Every shipped config is valid, builds, and is as large as its name says."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.models.build import build, num_parameters
from suite.training.config import load_run
from suite.training.optim import adamw
from suite.training.suite import load_suite

CONFIGS = Path(__file__).parents[1] / "configs"

# Total and without embeddings at a vocabulary of 4,096, counted from the shapes of delphi's suite.
SIZES = {
    "llama-50k": (49_554, 402),
    "llama-100k": (99_924, 1_620),
    "llama-250k": (246_820, 17_444),
    "llama-500k": (527_912, 69_160),
    "llama-1m": (1_019_508, 331_380),
    "llama-2.5m": (2_437_280, 1_126_560),
    "llama-5m": (5_136_720, 3_170_640),
    "llama-10m": (10_421_340, 7_636_060),
    "llama-25m": (24_215_520, 20_283_360),
    "llama-50m": (49_387_712, 43_620_544),
    "mamba-50k": (53_652, 4_500),
    "mamba-100k": (110_952, 12_648),
    "mamba-250k": (196_308, 48_852),
    "mamba-500k": (489_820, 178_524),
    "mamba-1m": (1_003_856, 545_104),
    "mamba-2.5m": (2_533_476, 1_697_892),
    "mamba-5m": (5_029_948, 3_768_380),
    "mamba-10m": (9_994_000, 8_355_600),
    "mamba-25m": (25_365_464, 22_645_720),
    "mamba-50m": (50_076_152, 46_176_760),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_stories_sizes(name):
    config = load_run([CONFIGS / "stories" / f"{name}.toml"], [])
    model = build(config.model, config.data.vocab_size, "meta")
    assert config.name == name and tuple(num_parameters(model).values()) == SIZES[name]


def test_there_are_no_other_sizes():
    assert {path.stem for path in (CONFIGS / "stories").glob("*.toml")} == set(SIZES)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_the_others(path):
    if "[suite]" in path.read_text():
        _, members = load_suite(path, [])
        assert len(members) >= 4 and {member.model.type for member in members} == {"llama", "mamba"}
    else:
        assert load_run([path], []).name == path.stem


@pytest.mark.parametrize("name", SIZES)
def test_every_size_has_delphis_rate_and_llamas_have_ours(name):
    size, rates = CONFIGS / "stories" / f"{name}.toml", CONFIGS / "rates"
    published = load_run([size, rates / "delphi.toml"], [])
    assert (published.optimizer.learning_rate, published.batch.sequences) == (5e-4, 256)
    if published.model.type != "llama":
        return
    ours = load_run([size, rates / "llama.toml"], [])
    assert ours.optimizer.parametrization == "mup" and ours.model == published.model
    groups = adamw(build(ours.model, 64, "meta"), ours.optimizer).param_groups
    # Matrices between channels, the most of every wide model, have the base's rate divided by the width's growth.
    largest = max(groups, key=lambda group: sum(parameter.numel() for parameter in group["params"]))
    growth = ours.model.hidden_size / 28
    assert growth < 4 or largest["lr_scale"] == 1 / growth
