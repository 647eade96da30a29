"""The linear layer, on CPU in float32 by oneDNN. M rows, I inputs, O outputs.

torch sends float32 products to MKL, which on AMD uses half the machine: 90 to 100 GF/s of 240 a core (Zen 5), where
oneDNN, compiled for the instructions it finds, reaches 155 to 220. torch itself uses oneDNN for bfloat16 and for
convolutions; this is the operator that its own compiler puts in place of a linear layer.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

SMALLEST = 32  # of M, I and O: below it the products cost less than getting to them, measured at 12 and 84


def linear(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias over the last dimension of x."""
    rows = x.numel() // max(1, x.shape[-1])
    if not by_onednn(x, weight_OI) or min(rows, *weight_OI.shape) < SMALLEST:
        return F.linear(x, weight_OI, bias_O)
    if torch.is_grad_enabled() and (x.requires_grad or weight_OI.requires_grad):
        return _Linear.apply(x, weight_OI, bias_O)
    return product(x, weight_OI, bias_O)


def product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias by oneDNN, without gradients. Either may be transposed: neither is copied."""
    return torch.ops.mkldnn._linear_pointwise(x, weight_OI, bias_O, "none", [], "")


def by_onednn(*tensors: Tensor) -> bool:
    """Whether `product` takes these."""
    return (
        all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


class Linear(nn.Linear):
    """nn.Linear whose product is `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight_OI, bias_O):
        ctx.save_for_backward(x, weight_OI)
        return product(x, weight_OI, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight_OI = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        x_grad = product(grad, weight_OI.T) if wants_x else None
        grad_MO, weight_grad_OI = grad.flatten(0, -2), None
        if wants_weight:
            weight_grad_OI = transposed_product(grad_MO, x.flatten(0, -2))
        return x_grad, weight_grad_OI, grad_MO.sum(0) if wants_bias else None


def transposed_product(grad_MO: Tensor, x_MI: Tensor) -> Tensor:
    """grad.T @ x, [O, I]: the shorter side goes first, which oneDNN is up to 1.6 times faster at."""
    if grad_MO.shape[1] > x_MI.shape[1]:
        return product(x_MI.T, grad_MO.T).T
    return product(grad_MO.T, x_MI.T)
