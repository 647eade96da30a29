"""Mamba's depthwise causal convolution with its SiLU. B batch, T time, D channels, K taps."""

import torch
import torch.nn.functional as F
from torch import Tensor

from suite import _core
from suite.models.ops.border import check_shapes, like, operator, rows, takes_rust


def conv_silu(x_BTD: Tensor, weight_DK: Tensor, bias_D: Tensor) -> Tensor:
    """silu(bias + depthwise causal convolution of x over time), [B, T, D]; tap K - 1 meets the present step.

    x may be strided. Raises ValueError for shapes that do not fit together, or more than 8 taps on CPU in float32.
    """
    inputs = (x_BTD, weight_DK, bias_D)
    channels = x_BTD.shape[-1]
    shapes = (tuple(x_BTD.shape), (channels, weight_DK.shape[-1]), (channels,))
    check_shapes("conv_silu", ("x", "weight", "bias"), inputs, shapes)
    if takes_rust(inputs):
        return _conv_silu(*inputs)
    return conv_silu_reference(*inputs)


def conv_silu_reference(x_BTD: Tensor, weight_DK: Tensor, bias_D: Tensor) -> Tensor:
    """`conv_silu` in torch's own terms, on any device."""
    channels, taps = weight_DK.shape
    x_BDT = F.pad(x_BTD.transpose(1, 2), (taps - 1, 0))
    return F.silu(F.conv1d(x_BDT, weight_DK[:, None], bias_D, groups=channels)).transpose(1, 2)


def _conv_silu_rust(x_BTD: Tensor, weight_DK: Tensor, bias_D: Tensor) -> Tensor:
    out_BTD = x_BTD.new_empty(x_BTD.shape)
    _core.conv_silu(rows(x_BTD), rows(weight_DK), rows(bias_D), out_BTD.numpy(), torch.get_num_threads())
    return out_BTD


def _conv_silu_rust_backward(inputs: list[Tensor], out_grad_BTD: Tensor) -> list[Tensor]:
    grads = like(inputs)
    x, weight, bias = (rows(tensor) for tensor in inputs)
    grad_arrays = [grad.numpy() for grad in grads]
    _core.conv_silu_backward(x, weight, bias, rows(out_grad_BTD), grad_arrays, torch.get_num_threads())
    return grads


def _keep_conv(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward_conv(ctx, out_grad_BTD):
    return tuple(_conv_silu_backward(list(ctx.saved_tensors), out_grad_BTD))


_conv_silu = operator("conv_silu", _conv_silu_rust, lambda x_BTD, weight_DK, bias_D: x_BTD.new_empty(x_BTD.shape))
_conv_silu_backward = operator("conv_silu_backward", _conv_silu_rust_backward, lambda inputs, out_grad: like(inputs))
torch.library.register_autograd("suite::conv_silu", _backward_conv, setup_context=_keep_conv)
