"""Causal attention of every head. B batch, H heads, K key/value heads, T time, E head_dim."""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_attention(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, starts_BT: Tensor | None = None) -> Tensor:
    """softmax(q k / sqrt(E)) v over the positions that each one sees, [B, H, T, E]; H is a multiple of K.

    Position t sees starts_BT[b, t] to t; None: all up to its own. starts are whole numbers, none beyond its position.
    """
    groups = q_BHTE.shape[1] // k_BKTE.shape[1]
    if groups > 1:
        k_BKTE = k_BKTE.repeat_interleave(groups, 1)
        v_BKTE = v_BKTE.repeat_interleave(groups, 1)
    seen_BTT = None if starts_BT is None else seen(starts_BT)[:, None]
    if q_BHTE.device.type == "cuda":
        return attention_padded(q_BHTE, k_BKTE, v_BKTE, seen_BTT)
    return F.scaled_dot_product_attention(q_BHTE, k_BKTE, v_BKTE, attn_mask=seen_BTT, is_causal=starts_BT is None)


def attention_padded(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, seen_B1TT: Tensor | None) -> Tensor:
    """torch's attention over heads widened to a multiple of 8 by zeros, which change neither scores nor results.

    torch's fused kernels for GPUs take no other heads (flash attention is padded by torch itself, the memory-efficient
    one, which float32 and masks need, is not): with heads of 14 or 34 it would quietly hold all [B, H, T, T] scores.
    """
    head_dim = q_BHTE.shape[-1]
    wider = -head_dim % 8
    if wider:
        q_BHTE, k_BHTE, v_BHTE = (F.pad(x_BHTE, (0, wider)) for x_BHTE in (q_BHTE, k_BHTE, v_BHTE))
    out_BHTE = F.scaled_dot_product_attention(
        q_BHTE, k_BHTE, v_BHTE, attn_mask=seen_B1TT, is_causal=seen_B1TT is None, scale=head_dim**-0.5
    )
    return out_BHTE[..., :head_dim]


def causal_attention_reference(
    q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, starts_BT: Tensor | None = None
) -> Tensor:
    """`causal_attention` as one reads it, with all scores at once."""
    B, H, T, E = q_BHTE.shape
    k_BHTE, v_BHTE = (x_BKTE.repeat_interleave(H // x_BKTE.shape[1], 1) for x_BKTE in (k_BKTE, v_BKTE))
    starts_BT = starts_BT if starts_BT is not None else q_BHTE.new_zeros(B, T, dtype=torch.int64)
    scores_BHTT = (q_BHTE @ k_BHTE.mT) * E**-0.5
    return scores_BHTT.masked_fill(~seen(starts_BT)[:, None], float("-inf")).softmax(-1) @ v_BHTE


def seen(starts_BT: Tensor) -> Tensor:
    """Which positions each one sees, bool [B, T, T]."""
    at_T = torch.arange(starts_BT.shape[1], device=starts_BT.device)
    return (at_T <= at_T[:, None]) & (at_T >= starts_BT[..., None])
