"""Llama: RMSNorm, RoPE, SwiGLU, grouped-query attention. Parameter names are transformers'.

B batch, T time, D hidden, H heads, K key/value heads, E head_dim, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from suite.models import ops
from suite.models.config import LlamaConfig


class RMSNorm(nn.Module):
    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        return F.rms_norm(x_BTD, (x_BTD.shape[-1],), self.weight.to(x_BTD.dtype), self.eps)


def rope_tables(length: int, head_dim: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of position * theta^(-2i/E), [T, E], each angle twice as transformers lays them out."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.int64, device=device).float() / head_dim
    angles_TE2 = torch.outer(torch.arange(length, device=device).float(), 1.0 / theta**exponents)
    angles_TE = torch.cat([angles_TE2, angles_TE2], -1)
    return angles_TE.cos(), angles_TE.sin()


def rotated(x_BHTE: Tensor, cos_TE: Tensor, sin_TE: Tensor) -> Tensor:
    first, second = x_BHTE.chunk(2, -1)
    return x_BHTE * cos_TE + torch.cat([-second, first], -1) * sin_TE


class Attention(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, config.num_kv_heads, config.head_dim
        self.q_proj = ops.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = ops.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.v_proj = ops.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.o_proj = ops.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, starts_BT: Tensor | None) -> Tensor:
        B, T, _ = x_BTD.shape
        q_BHTE = self.q_proj(x_BTD).view(B, T, self.heads, self.head_dim).transpose(1, 2)
        k_BKTE = self.k_proj(x_BTD).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        v_BKTE = self.v_proj(x_BTD).view(B, T, self.kv_heads, self.head_dim).transpose(1, 2)
        q_BHTE, k_BKTE = rotated(q_BHTE, cos_TE, sin_TE), rotated(k_BKTE, cos_TE, sin_TE)
        mixed_BHTE = ops.causal_attention(q_BHTE, k_BKTE, v_BKTE, starts_BT)
        return self.o_proj(mixed_BHTE.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = ops.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = ops.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = ops.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class Layer(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, starts_BT: Tensor | None) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), cos_TE, sin_TE, starts_BT)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Body(nn.Module):
    def __init__(self, config: LlamaConfig, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding.from_pretrained(torch.empty(vocab_size, config.hidden_size), freeze=False)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class Llama(nn.Module):
    def __init__(self, config: LlamaConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.gradient_checkpointing = False
        self.model = Body(config, vocab_size)
        self.lm_head = ops.Linear(config.hidden_size, vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def use_gradient_checkpointing(self) -> None:
        """Keeps each layer's input alone for the backward, which computes the rest again: the same bits."""
        self.gradient_checkpointing = True

    def hidden(self, ids_BT: Tensor, starts_BT: Tensor | None = None) -> Tensor:
        """The states that the output layer reads, [B, T, D]; with `starts_BT` each document's own (documents.py)."""
        x_BTD = self.model.embed_tokens(ids_BT)
        cos_TE, sin_TE = rope_tables(ids_BT.shape[1], self.config.head_dim, self.config.rope_theta, ids_BT.device)
        cos_TE, sin_TE = cos_TE.to(x_BTD.dtype), sin_TE.to(x_BTD.dtype)
        if starts_BT is not None:  # positions count from the document's start: [B, 1, T, E], for all heads
            places_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) - starts_BT
            cos_TE, sin_TE = cos_TE[places_BT][:, None], sin_TE[places_BT][:, None]
        again = self.gradient_checkpointing and torch.is_grad_enabled()
        for layer in self.model.layers:
            given = (x_BTD, cos_TE, sin_TE, starts_BT)
            x_BTD = checkpoint(layer, *given, use_reentrant=False) if again else layer(*given)
        return self.model.norm(x_BTD)

    def forward(self, ids_BT: Tensor, starts_BT: Tensor | None = None) -> Tensor:
        """Logits, [B, T, V]."""
        return self.lm_head(self.hidden(ids_BT, starts_BT))

    @torch.no_grad()
    def initialize(self, name: str, parameter: Tensor, generator: torch.Generator, pad: int | None) -> None:
        """The distribution that transformers gives this parameter."""
        if name.endswith("norm.weight"):
            parameter.fill_(1.0)
        else:
            parameter.normal_(0.0, self.config.initializer_range, generator=generator)
            if name.endswith("embed_tokens.weight") and pad is not None:
                parameter[pad] = 0.0  # transformers' padding_idx
