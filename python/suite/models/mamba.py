"""Mamba-1. Parameter names are transformers'.

B batch, T time, D hidden, I = expand * D channels, R = dt_rank, N state_size, K = conv_kernel.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from suite.models import ops
from suite.models.config import MambaConfig
from suite.models.llama import RMSNorm


class Conv1d(nn.Module):
    """Holds the depthwise kernel under transformers' name and shape, [I, 1, K]."""

    def __init__(self, channels: int, kernel: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None


class Mixer(nn.Module):
    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        channels, state, rank = config.intermediate_size, config.state_size, config.dt_rank
        self.sizes = [rank, state, state]
        self.in_proj = ops.Linear(config.hidden_size, 2 * channels, bias=config.use_bias)
        self.conv1d = Conv1d(channels, config.conv_kernel, config.use_conv_bias)
        self.x_proj = ops.Linear(channels, rank + 2 * state, bias=False)
        self.dt_proj = ops.Linear(rank, channels, bias=True)
        self.A_log = nn.Parameter(torch.empty(channels, state))
        self.D = nn.Parameter(torch.empty(channels))
        self.out_proj = ops.Linear(channels, config.hidden_size, bias=config.use_bias)

    def forward(self, x_BTD: Tensor, starts_BT: Tensor | None) -> Tensor:
        u_BTI, z_BTI, weight_IK, bias_I = self.convolved(x_BTD)
        u_BTI = ops.conv_silu(u_BTI, weight_IK, bias_I, starts_BT)
        y_BTI = ops.selective_scan(*self.scanned(u_BTI, z_BTI), starts_BT=starts_BT)
        return self.out_proj(y_BTI.to(x_BTD.dtype))

    # Products may run in bfloat16; the recurrence and what feeds it do not: they are of A_log's dtype.

    def convolved(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """-> u_BTI and its gate z_BTI, and the kernel and bias that u is convolved with"""
        u_BTI, z_BTI = self.in_proj(x_BTD).to(self.A_log.dtype).chunk(2, -1)
        bias_I = self.conv1d.bias if self.conv1d.bias is not None else u_BTI.new_zeros(u_BTI.shape[-1])
        return u_BTI, z_BTI, self.conv1d.weight[:, 0], bias_I

    def scanned(self, u_BTI: Tensor, z_BTI: Tensor) -> tuple[Tensor, ...]:
        """-> the scan's eight inputs, from the convolution's output and the gate"""
        exact = self.A_log.dtype
        dt_BTR, B_BTN, C_BTN = self.x_proj(u_BTI).to(exact).split(self.sizes, -1)
        # Its bias goes into the softplus, inside the scan.
        delta_BTI = ops.linear(dt_BTR, self.dt_proj.weight).to(exact)
        return u_BTI, delta_BTI, -torch.exp(self.A_log), B_BTN, C_BTN, self.D, z_BTI, self.dt_proj.bias


class Block(nn.Module):
    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = Mixer(config)
        self.residual_in_fp32 = config.residual_in_fp32

    def forward(self, x_BTD: Tensor, starts_BT: Tensor | None) -> Tensor:
        return self.residual(x_BTD) + self.mixer(self.normed(x_BTD), starts_BT)

    def residual(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.float() if self.residual_in_fp32 and x_BTD.dtype != torch.float64 else x_BTD

    def normed(self, x_BTD: Tensor) -> Tensor:
        return self.norm(x_BTD.to(self.norm.weight.dtype))


class Backbone(nn.Module):
    def __init__(self, config: MambaConfig, vocab_size: int) -> None:
        super().__init__()
        self.embeddings = nn.Embedding.from_pretrained(torch.empty(vocab_size, config.hidden_size), freeze=False)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)


class Mamba(nn.Module):
    def __init__(self, config: MambaConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.gradient_checkpointing = False
        self.backbone = Backbone(config, vocab_size)
        self.lm_head = ops.Linear(config.hidden_size, vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight

    def use_gradient_checkpointing(self) -> None:
        """Keeps each layer's input alone for the backward, which computes the rest again: the same bits."""
        self.gradient_checkpointing = True

    def hidden(self, ids_BT: Tensor, starts_BT: Tensor | None = None) -> Tensor:
        """The states that the output layer reads, [B, T, D]; with `starts_BT` each document's own (documents.py)."""
        x_BTD = self.backbone.embeddings(ids_BT)
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        for layer in self.backbone.layers:
            given = (x_BTD, starts_BT)
            x_BTD = checkpoint(layer, *given, use_reentrant=False) if again else layer(*given)
        return self.backbone.norm_f(x_BTD)

    def forward(self, ids_BT: Tensor, starts_BT: Tensor | None = None) -> Tensor:
        """Logits, [B, T, V]."""
        return self.lm_head(self.hidden(ids_BT, starts_BT))

    @torch.no_grad()
    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator, pad: int | None) -> None:
        """The distribution that transformers gives this parameter, which follows the authors' code.

        dt_bias is the inverse softplus of a log-uniform step, A_log is log(1..N), D is one; others normal, save the
        convolution and out_proj, which keep torch's uniform. Silent mistakes here have cost others whole suites.
        """
        config = self.config

        def uniform(bound: float) -> None:
            parameter.uniform_(-bound, bound, generator=generator)

        match re.sub(r"^backbone\.(layers\.\d+\.)?", "", name):
            case "norm.weight" | "norm_f.weight" | "mixer.D":
                parameter.fill_(1.0)
            case "mixer.A_log":
                parameter.copy_(torch.arange(1, config.state_size + 1).float().log().expand_as(parameter))
            case "mixer.dt_proj.weight":
                std = config.dt_rank**-0.5 * config.time_step_scale
                if config.time_step_init_scheme == "constant":
                    parameter.fill_(std)
                else:
                    uniform(std)
            case "mixer.dt_proj.bias":
                low, high = math.log(config.time_step_min), math.log(config.time_step_max)
                step = torch.exp(torch.rand(parameter.shape, generator=generator) * (high - low) + low)
                step = step.clamp(min=config.time_step_floor)
                parameter.copy_(step + torch.log(-torch.expm1(-step)))
            case "mixer.conv1d.weight":
                uniform(config.conv_kernel**-0.5)  # kaiming_uniform(a=sqrt(5)), fan-in K
            case "mixer.out_proj.weight":
                uniform(config.intermediate_size**-0.5)  # likewise, fan-in I
                if config.rescale_prenorm_residual:
                    parameter.div_(math.sqrt(config.num_hidden_layers))
            case other if other.endswith(".bias"):
                parameter.fill_(0.0)
            case _:
                parameter.normal_(0.0, config.initializer_range, generator=generator)
