"""A text read piece by piece: what a layer needs of the past is kept, so that one more token costs one token.

Llama keeps the keys and values of every position, Mamba the convolution's last inputs and the scan's state. The numbers
are those of `hidden` on the whole text but for the order in which products of one row instead of many are summed.

B batch (1), T time, D hidden, H heads, K key/value heads, E head_dim, I channels, N states, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suite.models import ops
from suite.models.llama import Attention, Layer, Llama, rope_tables, rotated
from suite.models.mamba import Block, Mamba, Mixer

Kept = tuple[
    Tensor, Tensor
]  # a layer's: keys and values [B, K, T, E], or last inputs [B, taps - 1, I] and state [B, N, I]


class Decoder:
    """Reads one text of at most `context` tokens. `read` takes its next ones -> logits of what follows, [V]."""

    def __init__(self, model: Llama | Mamba, context: int) -> None:
        self.model, self.context, self.length = model, context, 0
        self.kept: list[Kept | None] = [None] * model.config.num_hidden_layers
        self.device = model.lm_head.weight.device
        if isinstance(model, Llama):
            self.tables = rope_tables(context, model.config.head_dim, model.config.rope_theta, self.device)

    @torch.no_grad()
    def read(self, ids: list[int]) -> Tensor:
        assert 0 < len(ids) <= self.context - self.length
        ids_BT = torch.tensor([ids], device=self.device)
        model = self.model
        hidden_BTD = self._read_llama(model, ids_BT) if isinstance(model, Llama) else self._read_mamba(model, ids_BT)
        self.length += len(ids)
        return model.lm_head(hidden_BTD[0, -1])

    def _read_llama(self, model: Llama, ids_BT: Tensor) -> Tensor:
        x_BTD = model.model.embed_tokens(ids_BT)
        here = slice(self.length, self.length + ids_BT.shape[1])
        cos_TE, sin_TE = (table_TE[here].to(x_BTD.dtype) for table_TE in self.tables)
        for i, layer in enumerate(model.model.layers):
            assert isinstance(layer, Layer)
            normed_BTD = layer.input_layernorm(x_BTD)
            mixed_BTD, self.kept[i] = attend(layer.self_attn, normed_BTD, cos_TE, sin_TE, self.kept[i])
            x_BTD = x_BTD + mixed_BTD
            x_BTD = x_BTD + layer.mlp(layer.post_attention_layernorm(x_BTD))
        return model.model.norm(x_BTD)

    def _read_mamba(self, model: Mamba, ids_BT: Tensor) -> Tensor:
        x_BTD = model.backbone.embeddings(ids_BT)
        for i, block in enumerate(model.backbone.layers):
            assert isinstance(block, Block)
            mixed_BTD, self.kept[i] = mix(block.mixer, block.normed(x_BTD), self.kept[i])
            x_BTD = block.residual(x_BTD) + mixed_BTD
        return model.backbone.norm_f(x_BTD)


def attend(layer: Attention, x_BTD: Tensor, cos_TE: Tensor, sin_TE: Tensor, kept: Kept | None) -> tuple[Tensor, Kept]:
    """`Attention.forward` on positions that come after those kept."""
    B, T, _ = x_BTD.shape
    q_BHTE = layer.q_proj(x_BTD).view(B, T, layer.heads, layer.head_dim).transpose(1, 2)
    k_BKTE = layer.k_proj(x_BTD).view(B, T, layer.kv_heads, layer.head_dim).transpose(1, 2)
    v_BKTE = layer.v_proj(x_BTD).view(B, T, layer.kv_heads, layer.head_dim).transpose(1, 2)
    q_BHTE, k_BKTE = rotated(q_BHTE, cos_TE, sin_TE), rotated(k_BKTE, cos_TE, sin_TE)
    if kept:
        k_BKTE, v_BKTE = torch.cat([kept[0], k_BKTE], 2), torch.cat([kept[1], v_BKTE], 2)
    length = k_BKTE.shape[2]
    seen_TT = torch.ones(T, length, dtype=torch.bool, device=x_BTD.device).tril(length - T)
    mixed_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BKTE, v_BKTE, attn_mask=seen_TT, enable_gqa=True)
    return layer.o_proj(mixed_BHTE.transpose(1, 2).reshape(B, T, -1)), (k_BKTE, v_BKTE)


def mix(mixer: Mixer, x_BTD: Tensor, kept: Kept | None) -> tuple[Tensor, Kept]:
    """`Mixer.forward` on steps that come after those kept."""
    u_BTI, z_BTI, weight_IK, bias_I = mixer.convolved(x_BTD)
    before = weight_IK.shape[1] - 1
    batch, _, channels = u_BTI.shape
    last_BKI, state_BNI = kept or (
        u_BTI.new_zeros(batch, before, channels),
        u_BTI.new_zeros(batch, mixer.A_log.shape[1], channels),
    )
    u_BTI = torch.cat([last_BKI, u_BTI], 1)
    last_BKI = u_BTI[:, u_BTI.shape[1] - before :]
    u_BTI = ops.conv_silu(u_BTI, weight_IK, bias_I)[:, before:]
    y_BTI, state_BNI = ops.advance_scan(state_BNI, mixer.scanned(u_BTI, z_BTI))
    return mixer.out_proj(y_BTI.to(x_BTD.dtype)), (last_BKI, state_BNI)
