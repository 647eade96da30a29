"""Causal attention of every head. B batch, H heads, K key/value heads, T time, E head_dim.

torch's own kernel for CPU is made for heads of 64 and more: with 14 or 34 it reaches a fifteenth of what the core can
do. Ours (rust/core/src/kernels/attention.rs) has queries side by side instead, so no head size is padded.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from suite import _core
from suite.models.ops.border import operator, rows


def causal_attention(q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, starts_BT: Tensor | None = None) -> Tensor:
    """softmax(q k / sqrt(E)) v over the positions that each one sees, [B, H, T, E]; H is a multiple of K.

    Position t sees starts_BT[b, t] to t; None: all up to its own. starts are whole numbers, none beyond its position.
    On CPU bfloat16 is computed in float32. Fastest where inputs are transposed views of [B, T, H, E], as out is.
    """
    inputs = (q_BHTE, k_BKTE, v_BKTE)
    dtypes = {tensor.dtype for tensor in inputs}
    if all(tensor.device.type == "cpu" for tensor in inputs) and dtypes <= {torch.float32, torch.bfloat16}:
        B, H, T, E = q_BHTE.shape
        q, k, v = (x.float().transpose(1, 2).flatten(2) for x in inputs)
        out_BTX = _causal_attention(q, k, v, [H, k_BKTE.shape[1]], starts_BT)[0]
        return out_BTX.view(B, T, H, E).transpose(1, 2).to(q_BHTE.dtype)
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


# What the kernel takes, X = heads E: out_BTX is also the layout in which projections come and go.


def _attention_rust(
    q_BTX: Tensor, k_BTX: Tensor, v_BTX: Tensor, heads: list[int], starts_BT: Tensor | None
) -> tuple[Tensor, Tensor]:
    """-> (out_BTX, what backward wants: each query's maximum and reciprocal sum)"""
    out_BTX, kept = _attention_outputs(q_BTX, k_BTX, v_BTX, heads, starts_BT)
    arrays = [rows(tensor) for tensor in (q_BTX, k_BTX, v_BTX)]
    threads = torch.get_num_threads()
    _core.causal_attention(arrays, (heads[0], heads[1]), _starts(starts_BT), out_BTX.numpy(), kept.numpy(), threads)
    return out_BTX, kept


def _attention_outputs(q_BTX, k_BTX, v_BTX, heads, starts_BT):
    B, T, _ = q_BTX.shape
    return q_BTX.new_empty(q_BTX.shape), q_BTX.new_empty(B * heads[0] * T * 2)


def _attention_rust_backward(
    inputs: list[Tensor],
    heads: list[int],
    starts_BT: Tensor | None,
    out_grad_BTX: Tensor,
    out_BTX: Tensor,
    kept: Tensor,
) -> list[Tensor]:
    grads = [tensor.new_empty(tensor.shape) for tensor in inputs]
    arrays = [rows(tensor) for tensor in inputs]
    forward = [rows(out_grad_BTX), rows(out_BTX), kept.detach().numpy()]
    grad_arrays = [grad.numpy() for grad in grads]
    threads = torch.get_num_threads()
    _core.causal_attention_backward(arrays, (heads[0], heads[1]), _starts(starts_BT), forward, grad_arrays, threads)
    return grads


def _starts(starts_BT: Tensor | None):
    return None if starts_BT is None else starts_BT.long().contiguous().numpy()


def _keep_attention(ctx, inputs, output):
    *tensors, ctx.heads, starts_BT = inputs
    ctx.save_for_backward(*tensors, starts_BT, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward_attention(ctx, out_grad_BTX, _):
    if out_grad_BTX is None:
        return (None,) * 5
    q, k, v, starts, out, kept = ctx.saved_tensors
    return (*_causal_attention_backward([q, k, v], ctx.heads, starts, out_grad_BTX, out, kept), None, None)


_causal_attention = operator("causal_attention", _attention_rust, _attention_outputs)
_causal_attention_backward = operator(
    "causal_attention_backward",
    _attention_rust_backward,
    lambda inputs, heads, starts, out_grad, out, kept: [tensor.new_empty(tensor.shape) for tensor in inputs],
)
torch.library.register_autograd("suite::causal_attention", _backward_attention, setup_context=_keep_attention)
