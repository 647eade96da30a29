"""Causal attention of every head. B batch, H heads, K key/value heads, T time, E head_dim."""

import torch.nn.functional as F
from torch import Tensor


def causal_attention(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
    """softmax(q k / sqrt(E)) v over the positions up to each one's own, [B, H, T, E]; H is a multiple of K."""
    groups = q_BHTE.shape[1] // k_BKTE.shape[1]
    if groups > 1:
        k_BKTE = k_BKTE.repeat_interleave(groups, 1)
        v_BKTE = v_BKTE.repeat_interleave(groups, 1)
    return F.scaled_dot_product_attention(q_BHTE, k_BKTE, v_BKTE, is_causal=True)
