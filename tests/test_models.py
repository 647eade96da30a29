"""The native models are transformers' models: same names, same numbers, same initial distributions."""

from __future__ import annotations

import math

import pytest
import torch

from suite.base.special import SpecialIds
from suite.models import hf
from suite.models.build import build, initialize
from suite.models.config import LlamaConfig, MambaConfig
from suite.models.score import token_nats
from suite.training.step import nats_of

VOCAB, SEQ_LEN = 97, 33
SPECIAL = SpecialIds(0, 1, 2)

LLAMAS = {
    "grouped": LlamaConfig(
        type="llama",
        hidden_size=48,
        intermediate_size=75,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
    "tied, one key head, other theta and eps": LlamaConfig(
        type="llama",
        hidden_size=24,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=6,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        rope_theta=5e5,
        rms_norm_eps=1e-3,
    ),
    "heads of two": LlamaConfig(
        type="llama", hidden_size=6, intermediate_size=16, num_hidden_layers=1, num_attention_heads=3
    ),
}
MAMBAS = {
    "one lane block and a half": MambaConfig(type="mamba", hidden_size=12, num_hidden_layers=2),
    "rescaled, biased": MambaConfig(
        type="mamba",
        hidden_size=24,
        num_hidden_layers=3,
        state_size=5,
        conv_kernel=3,
        use_bias=True,
        rescale_prenorm_residual=True,
        time_step_rank=4,
    ),
    "untied": MambaConfig(type="mamba", hidden_size=16, num_hidden_layers=1, tie_word_embeddings=False),
}
MODELS = {**LLAMAS, **MAMBAS}


@pytest.fixture(params=MODELS, ids=lambda name: name.replace(" ", "_"))
def pair(request, tmp_path):
    """Our model and transformers' own, loaded from the folder that ours wrote."""
    from transformers import AutoModelForCausalLM

    ours = build(MODELS[request.param], VOCAB)
    initialize(ours, seed=3)
    with torch.no_grad():  # away from the special point of initial weights: every parameter must matter
        for name, parameter in ours.named_parameters():
            if not name.endswith(("A_log", "dt_proj.bias")):
                parameter += 0.1 * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
                )
    hf.write_folder(ours, tmp_path, SEQ_LEN, SPECIAL)
    theirs, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    mine = dict(ours.named_parameters())
    assert all(torch.equal(parameter, mine[name]) for name, parameter in theirs.named_parameters())
    return ours, theirs.train()


def ids(batch: int = 3) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, SEQ_LEN), generator=torch.Generator().manual_seed(0))


# Both sides compute in float32 in different orders; sums are at most some hundreds of terms long, so their
# errors stay below a few tens of ulps of the largest value.
def close(ours: torch.Tensor, theirs: torch.Tensor, ulps: float = 64) -> None:
    scale = max(1e-3, float(theirs.detach().abs().max()))
    assert float((ours - theirs).detach().abs().max()) <= ulps * 2**-24 * scale


def test_logits_loss_and_gradients_are_transformers(pair):
    ours, theirs = pair
    close(ours(ids()), theirs(ids()).logits)
    targets = ids().shape[0] * (SEQ_LEN - 1)
    our_loss = nats_of(ours, ids()) / targets
    their_loss = theirs(ids(), labels=ids()).loss
    close(our_loss, their_loss)
    our_loss.backward()
    their_loss.backward()
    their_grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        # Gradients of deep products lose more: a thousand ulps is 6e-5 of the largest entry.
        close(parameter.grad, their_grads[name], ulps=1000)


def test_a_written_folder_reads_back_the_same(pair, tmp_path):
    ours, _ = pair
    back, _ = hf.read_folder(tmp_path)
    assert back.config == ours.config.model_copy(update={"vocab_size": VOCAB, **_filled(ours.config)})
    for (name, mine), (other, read) in zip(ours.named_parameters(), back.named_parameters(), strict=True):
        assert name == other and torch.equal(mine, read)


def _filled(config):
    if isinstance(config, LlamaConfig):
        return {"num_key_value_heads": config.num_kv_heads, "max_position_embeddings": SEQ_LEN}
    return {"time_step_rank": config.dt_rank, "rescale_prenorm_residual": False}


def test_nothing_later_changes_what_was_predicted_before(pair):
    """Causality, exactly: another future, the same past, the same bits."""
    ours, _ = pair
    other = ids().clone()
    other[:, 20:] = (other[:, 20:] + 1) % VOCAB
    with torch.no_grad():
        assert torch.equal(ours(ids())[:, :20], ours(other)[:, :20])


def test_token_nats_are_the_loss(pair):
    ours, _ = pair
    nats = token_nats(ours, ids())
    assert nats.shape == (3, SEQ_LEN - 1)
    close(nats.sum(), nats_of(ours, ids()))


def _family(name: str) -> str:
    return ".".join(part for part in name.split(".") if not part.isdigit())


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(type="llama", hidden_size=96, intermediate_size=160, num_hidden_layers=4, num_attention_heads=6),
        MambaConfig(type="mamba", hidden_size=80, num_hidden_layers=4, rescale_prenorm_residual=True),
        MambaConfig(type="mamba", hidden_size=80, num_hidden_layers=4, time_step_init_scheme="constant"),
    ],
    ids=["llama", "mamba", "mamba_constant"],
)
def test_initial_weights_have_transformers_distributions(config):
    """Every family of parameters: mean, spread and quantiles of ours against theirs, over four seeds."""
    from transformers import AutoConfig, AutoModelForCausalLM

    theirs_config = AutoConfig.for_model(**{**config.to_hf(512, 64), "pad_token_id": 2})
    theirs_config.rescale_prenorm_residual = getattr(config, "rescale_prenorm_residual", False)

    def drawn(seed: int, ours: bool) -> dict[str, list[torch.Tensor]]:
        if ours:
            model = build(config, 512)
            initialize(model, seed, pad=2)
        else:
            torch.manual_seed(seed)
            model = AutoModelForCausalLM.from_config(theirs_config)
        found: dict[str, list[torch.Tensor]] = {}
        for name, parameter in model.named_parameters():
            found.setdefault(_family(name), []).append(parameter.detach().flatten())
        return found

    samples = [[drawn(seed, ours) for seed in range(4)] for ours in (True, False)]
    for family in samples[0][0]:
        mine, theirs = (torch.cat([part for one in side for part in one[family]]).double() for side in samples)
        assert mine.shape == theirs.shape, family
        if mine.unique().numel() <= 64:  # constants: A_log, D, norms, biases, constant dt
            assert torch.equal(mine.unique(), theirs.unique()), family
            continue
        n = len(mine)
        spread = float(theirs.std())
        # Five standard errors of the difference of two means, and of two standard deviations.
        assert abs(float(mine.mean() - theirs.mean())) < 5 * spread * math.sqrt(2 / n), family
        assert abs(float(mine.std()) / spread - 1) < 5 * math.sqrt(1 / n) + 1e-9, family
        for q in (0.02, 0.25, 0.5, 0.75, 0.98):
            # A quantile's standard error is sqrt(q(1-q)/n) / density; densities here are at least 0.05 / spread.
            bound = 5 * math.sqrt(2 * q * (1 - q) / n) * spread / 0.05
            assert abs(float(mine.quantile(q) - theirs.quantile(q))) < bound, (family, q)


def test_weights_depend_on_seed_and_name_alone():
    small, large = (
        build(LLAMAS["grouped"], VOCAB),
        build(LLAMAS["grouped"].model_copy(update={"num_hidden_layers": 3}), VOCAB),
    )
    initialize(small, 5)
    initialize(large, 5)
    theirs = dict(large.named_parameters())
    assert all(torch.equal(parameter, theirs[name]) for name, parameter in small.named_parameters())
    initialize(large, 6)
    assert not torch.equal(small.lm_head.weight, large.lm_head.weight)
