"""muP: the standard parametrization at the base width, and changes that do not grow with the width above it."""

from __future__ import annotations

import pytest
import torch

from suite.base.errors import ConfigError
from suite.models.build import build, initialize
from suite.models.config import LlamaConfig, MambaConfig
from suite.training import coordinates, optim, step
from suite.training.config import BudgetConfig, DataConfig, OptimizerConfig, RunConfig, load_run

VOCAB, WIDTHS = 16, [32, 64, 128]
LLAMA = LlamaConfig(
    type="llama", hidden_size=32, intermediate_size=88, num_hidden_layers=2, num_attention_heads=2
)  # fmt: skip
MAMBA = MambaConfig(type="mamba", hidden_size=32, num_hidden_layers=2)
MODELS = {
    "llama": LLAMA,
    "llama_tied": LLAMA.model_copy(update={"tie_word_embeddings": True}),
    "mamba": MAMBA,
    "mamba_untied": MAMBA.model_copy(update={"tie_word_embeddings": False}),
}
MUP = OptimizerConfig(learning_rate=1e-2, parametrization="mup", base_hidden_size=32, base_head_dim=16)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these are tiny products: two threads on busy cores mostly wait for each other
    yield
    torch.set_num_threads(threads)


def rows() -> torch.Tensor:
    """A Markov chain's words: something to learn, in 4 rows of 33."""
    generator = torch.Generator().manual_seed(0)
    odds = torch.rand(VOCAB, VOCAB, generator=generator) ** 12
    ids_BT = torch.randint(0, VOCAB, (4, 33), generator=generator)
    for t in range(32):
        ids_BT[:, t + 1] = torch.multinomial(odds[ids_BT[:, t]], 1, generator=generator)[:, 0]
    return ids_BT


@pytest.mark.parametrize("name", MODELS)
def test_changes_are_flat_under_mup_and_grow_without(name):
    """The coordinate check. Exponents of width over a factor of four, three seeds: 0 in the limit, and their spread
    over seeds was 0.04; the standard parametrization's are above 0.5 in the layers, where it has long diverged."""
    config = RunConfig(
        name="x",
        model=MODELS[name],
        data=DataConfig(tokens="none"),
        budget=BudgetConfig(steps=1),
        optimizer=OptimizerConfig(learning_rate=1e-2),
    )
    slopes = {}
    for parametrization in ("standard", "mup"):
        found = coordinates.check(config, parametrization, WIDTHS, rows(), VOCAB, steps=8, seeds=3)
        slopes[parametrization] = {
            layer: coordinates.slope({width: found[width].change[layer] for width in WIDTHS})
            for layer in found[WIDTHS[0]].change
        }
    assert all(abs(slope) < 0.2 for slope in slopes["mup"].values()), slopes
    assert slopes["standard"]["layer 1"] > 0.5 and slopes["standard"]["layer 2"] > 0.5, slopes


@pytest.mark.parametrize("name", MODELS)
def test_at_the_base_width_it_is_the_standard_parametrization(name):
    def trained(config: OptimizerConfig) -> dict[str, torch.Tensor]:
        model = build(MODELS[name], VOCAB)
        initialize(model, 1, base=optim.base_of(config))
        adamw = optim.adamw(model, config)
        for _ in range(2):
            adamw.zero_grad()
            step.accumulate(model, rows(), 128, 4, torch.float32)
            adamw.step()
        return dict(model.named_parameters())

    ours, standard = trained(MUP), trained(OptimizerConfig(learning_rate=1e-2))
    assert all(torch.equal(parameter, standard[each]) for each, parameter in ours.items())


def test_what_decay_takes_off_in_a_step_does_not_depend_on_the_width():
    wide = build(LLAMA.model_copy(update={"hidden_size": 96}), VOCAB, "meta")
    groups = optim.adamw(wide, MUP).param_groups
    assert {group["lr_scale"] for group in groups} == {1.0, 1 / 3, 3**-0.5 / 3}  # q_proj's heads are 48 wide, not 16
    for group in groups:
        assert group["weight_decay"] == 0 or abs(group["lr_scale"] * group["weight_decay"] - 0.1) < 1e-16


def test_mup_without_a_base_is_refused(tiny_root):
    with pytest.raises(ConfigError, match="optimizer: parametrization is mup: base_hidden_size is missing"):
        load_run([tiny_root / "llama.toml"], ["optimizer.parametrization=mup"])
