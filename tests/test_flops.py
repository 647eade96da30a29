"""The FLOPs that we state are those that torch counts on the reference paths, but for what is derived here."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from suite.models import ops, size
from suite.models.build import build, initialize, num_parameters
from suite.models.config import LlamaConfig, MambaConfig
from suite.training import flops

V, B, T = 50, 2, 12
LLAMA = LlamaConfig(
    type="llama", hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6,
    num_key_value_heads=3,
)  # fmt: skip
MAMBA = MambaConfig(type="mamba", hidden_size=20, num_hidden_layers=2, state_size=5)
SHAPES = [
    LLAMA,
    LLAMA.model_copy(update={"tie_word_embeddings": True, "num_key_value_heads": None}),
    MAMBA,
    MambaConfig(type="mamba", hidden_size=18, num_hidden_layers=3, use_bias=True, use_conv_bias=False, expand=3,
                tie_word_embeddings=False, time_step_rank=7, conv_kernel=3),
]  # fmt: skip


class Elementwise(TorchDispatchMode):
    """Counts the elements that additions, products, exponentials and sums make or take in."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("add", "mul", "exp"):
            self.count += out.numel()
        elif name == "sum":
            self.count += args[0].numel()
        return out


@pytest.fixture
def references(monkeypatch):
    monkeypatch.setattr(ops, "causal_attention", ops.causal_attention_reference)
    monkeypatch.setattr(ops, "selective_scan", ops.selective_scan_reference)
    monkeypatch.setattr(ops, "conv_silu", ops.conv_silu_reference)


@pytest.mark.parametrize("config", SHAPES[:1] + SHAPES[2:], ids=lambda config: config.type)
def test_torch_counts_the_same(config, references):
    model = build(config, V)
    initialize(model, 0)
    ids_BT = torch.randint(V, (B, T))
    stated = flops.of_row(config, V, T)
    with FlopCounterMode(display=False) as counter:
        loss = ops.linear_cross_entropy_reference(
            model.hidden(ids_BT).flatten(0, 1), model.lm_head.weight, ids_BT.flatten()
        )
        forward = counter.get_total_flops()
        loss.backward()
    # Its products of all pairs: T in place of (T + 1) / 2 positions seen on average.
    other_half = stated.attention * 2 * T // (T + 1) - stated.attention
    assert forward == B * (stated.forward - stated.scan + other_half)  # it counts no elementwise operation: no scan
    # For a kernel's gradient it crosses all channels, though each has its own: I times as many.
    crossed = (config.intermediate_size - 1) * stated.convolution
    assert counter.get_total_flops() == flops.TRAINING * forward + B * crossed


def test_the_scan_is_what_its_reference_does():
    I, N = 6, 5  # noqa: E741
    sizes = [(B, T, I), (B, T, I), (I, N), (B, T, N), (B, T, N), (I,), (B, T, I), (I,)]
    tensors = [torch.rand(one) for one in sizes]
    with Elementwise() as counted:
        ops.selective_scan_reference(*tensors)
    config = MAMBA.model_copy(update={"hidden_size": I // 2, "num_hidden_layers": 1})
    bias = B * T * I  # of the softplus, which the FLOPs leave out with the activation
    assert counted.count - bias == B * flops.of_row(config, V, T).scan


@pytest.mark.parametrize("config", SHAPES, ids=lambda config: config.type)
def test_parameters_are_counted_without_a_module(config):
    assert size.num_parameters(config, V) == num_parameters(build(config, V, "meta"))


@pytest.mark.parametrize("config", SHAPES[:2], ids=["grouped", "tied"])
def test_a_module_without_formulas_is_counted(config):
    assert flops.of_forward(build(config, V, "meta"), T) == flops.of_row(config, V, T)
    from transformers import AutoConfig, AutoModelForCausalLM

    for attention in ("eager", "sdpa"):
        with torch.device("meta"):
            theirs = AutoModelForCausalLM.from_config(
                AutoConfig.for_model(**config.to_hf(V, T)), attn_implementation=attention
            )
        assert flops.of_forward(theirs, T) == flops.of_row(config, V, T), attention


def test_the_rule_of_six():
    """Kaplan et al. 2020: training takes 6 N a token, and attention beside it."""
    norms = LLAMA.hidden_size * (2 * LLAMA.num_hidden_layers + 1)
    multiplied = size.num_parameters(LLAMA, V)["total"] - norms - V * LLAMA.hidden_size
    exact = flops.of_row(LLAMA, V, T)
    assert exact.training_per_token == pytest.approx(6 * multiplied + 3 * exact.attention / T, rel=1e-15)
