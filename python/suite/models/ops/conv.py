"""Mamba's depthwise causal convolution with its SiLU. B batch, T time, D channels, K taps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from suite import _core
from suite.models.ops.border import check_shapes, check_starts, like, operator, rows, starts_of, takes_kernel


def conv_silu(x_BTD: Tensor, weight_DK: Tensor, bias_D: Tensor, starts_BT: Tensor | None = None) -> Tensor:
    """silu(bias + depthwise causal convolution of x over time), [B, T, D]; tap K - 1 meets the present step.

    x may be strided. With `starts_BT` (models/documents.py) x is 0 before the first step of each document. Raises
    ValueError for shapes that do not fit together, or more than 8 taps on CPU in float32.
    """
    inputs = (x_BTD, weight_DK, bias_D)
    channels = x_BTD.shape[-1]
    shapes = (tuple(x_BTD.shape), (channels, weight_DK.shape[-1]), (channels,))
    check_shapes("conv_silu", ("x", "weight", "bias"), inputs, shapes)
    check_starts("conv_silu", starts_BT, x_BTD.shape[:2])
    if takes_kernel(inputs):
        return _conv_silu(*inputs, starts_BT)
    return conv_silu_reference(*inputs, starts_BT)


def conv_silu_reference(x_BTD: Tensor, weight_DK: Tensor, bias_D: Tensor, starts_BT: Tensor | None = None) -> Tensor:
    """`conv_silu` in torch's own terms, on any device."""
    channels, taps = weight_DK.shape
    if starts_BT is None:
        x_BDT = F.pad(x_BTD.transpose(1, 2), (taps - 1, 0))
        return F.silu(F.conv1d(x_BDT, weight_DK[:, None], bias_D, groups=channels)).transpose(1, 2)
    time = x_BTD.shape[1]
    at_T = torch.arange(time, device=x_BTD.device)
    out_BTD = bias_D.expand(x_BTD.shape)
    for k in range(taps):
        before = taps - 1 - k
        x_before_BTD = F.pad(x_BTD, (0, 0, before, 0))[:, :time]
        unseen_BT = at_T - before < starts_BT
        out_BTD = out_BTD + weight_DK[:, k] * x_before_BTD.masked_fill(unseen_BT[..., None], 0.0)
    return F.silu(out_BTD)


def _conv_silu_rust(x_BTD: Tensor, weight_DK: Tensor, bias_D: Tensor, starts_BT: Tensor | None = None) -> Tensor:
    out_BTD = x_BTD.new_empty(x_BTD.shape)
    arrays = rows(x_BTD), rows(weight_DK), rows(bias_D), out_BTD.numpy()
    _core.conv_silu(*arrays, torch.get_num_threads(), starts_of(starts_BT))
    return out_BTD


def _conv_silu_rust_backward(
    inputs: list[Tensor], out_grad_BTD: Tensor, starts_BT: Tensor | None = None
) -> list[Tensor]:
    grads = like(inputs)
    x, weight, bias = (rows(tensor) for tensor in inputs)
    grad_arrays = [grad.numpy() for grad in grads]
    starts = starts_of(starts_BT)
    _core.conv_silu_backward(x, weight, bias, rows(out_grad_BTD), grad_arrays, torch.get_num_threads(), starts)
    return grads


def _keep_conv(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward_conv(ctx, out_grad_BTD):
    *inputs, starts_BT = ctx.saved_tensors
    return (*_conv_silu_backward(inputs, out_grad_BTD, starts_BT), None)


def _conv_silu_output(x_BTD, weight_DK, bias_D, starts_BT=None):
    return x_BTD.new_empty(x_BTD.shape)


def _conv_silu_triton(x_BTD, weight_DK, bias_D, starts_BT=None):
    from suite.models.ops import triton_conv

    return triton_conv.forward((x_BTD, weight_DK, bias_D), starts_BT)


def _conv_silu_triton_backward(inputs, out_grad_BTD, starts_BT=None):
    from suite.models.ops import triton_conv

    return triton_conv.backward(inputs, out_grad_BTD, starts_BT)


_conv_silu = operator("conv_silu", _conv_silu_rust, _conv_silu_output, on_gpu=_conv_silu_triton)
_conv_silu_backward = operator(
    "conv_silu_backward",
    _conv_silu_rust_backward,
    lambda inputs, out_grad, starts=None: like(inputs),
    on_gpu=_conv_silu_triton_backward,
)
torch.library.register_autograd("suite::conv_silu", _backward_conv, setup_context=_keep_conv)
