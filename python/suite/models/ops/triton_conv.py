"""Mamba's depthwise convolution with its SiLU on a GPU, in Triton.

One warp takes STEPS steps of 32 channels, one a thread: it loads a row once and keeps it in registers for every tap.
Backward computes what went into the SiLU again, for its own steps and the taps - 1 after them, so no gradient between
the two is ever in memory. Sums over time and sequences are written as parts and added in a fixed order.

B batch, T time, D channels, K taps, S tiles of STEPS steps.
"""

# Kernels are Python to a reader only: triton compiles them, and its values have no types here.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from suite.models.ops.triton_scan import row, rows, sigmoid, within

STEPS, GROUP = 32, 32


@triton.jit
def _taps(weight, d_D, is_d, K: tl.constexpr):
    taps = ()
    for k in tl.static_range(K):
        taps = taps + (tl.load(weight + d_D * K + k, mask=is_d, other=0.0).to(tl.float32),)
    return taps


@triton.jit
def _window(x, t, d_D, time, channels, x_t, LENGTH: tl.constexpr):
    """Rows t to t + LENGTH - 1 of x; zero before the first and after the last."""
    window = ()
    for i in tl.static_range(LENGTH):
        is_here = within(d_D, channels, t + i, tl.where(t + i >= 0, time, t))
        window = window + (row(x, t + i, x_t, d_D, is_here),)
    return window


@triton.jit
def _seen(x_D, t, first, HAS_STARTS: tl.constexpr):
    """x_D of step t, or zero where whoever sees no further back than `first` looks at it."""
    if HAS_STARTS:
        x_D = tl.where(t >= first, x_D, 0.0)
    return x_D


@triton.jit
def _first(starts, t, time, HAS_STARTS: tl.constexpr):
    first = tl.zeros((), tl.int64)
    if HAS_STARTS:
        first = tl.load(starts + tl.minimum(t, time - 1))
    return first


@triton.jit
def _forward(
    x, weight, bias, starts, out, time, channels, x_b, x_t,
    HAS_STARTS: tl.constexpr, K: tl.constexpr, STEPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    b, begin, d_D = tl.program_id(0).to(tl.int64), tl.program_id(1) * STEPS, tl.program_id(2) * GROUP
    d_D = d_D + tl.arange(0, GROUP)
    x, starts, out = x + b * x_b, starts + b * time, out + b * time * channels
    taps = _taps(weight, d_D, d_D < channels, K)
    bias_D = tl.load(bias + d_D, mask=d_D < channels, other=0.0).to(tl.float32)
    x_rows = _window(x, begin - (K - 1), d_D, time, channels, x_t, STEPS + K - 1)
    for i in tl.static_range(STEPS):
        t = begin + i
        first = _first(starts, t, time, HAS_STARTS)
        s_D = bias_D
        for k in tl.static_range(K):
            s_D += taps[k] * _seen(x_rows[i + k], t - (K - 1) + k, first, HAS_STARTS)
        tl.store(out + t * channels + d_D, s_D * sigmoid(s_D), mask=within(d_D, channels, t, time))


@triton.jit
def _backward(
    x, weight, bias, starts, out_grad, x_grad, weight_part, bias_part,
    time, channels, tiles, x_b, x_t, out_b, out_t,
    HAS_STARTS: tl.constexpr, K: tl.constexpr, STEPS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    b, tile, d_D = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2) * GROUP
    d_D, begin = d_D + tl.arange(0, GROUP), tile * STEPS
    is_d = d_D < channels
    x, starts, out_grad, x_grad = x + b * x_b, starts + b * time, out_grad + b * out_b, x_grad + b * time * channels
    taps = _taps(weight, d_D, is_d, K)
    bias_D = tl.load(bias + d_D, mask=is_d, other=0.0).to(tl.float32)
    x_rows = _window(x, begin - (K - 1), d_D, time, channels, x_t, STEPS + 2 * (K - 1))
    out_grads = _window(out_grad, begin, d_D, time, channels, out_t, STEPS + K - 1)
    grads, firsts = (), ()  # of what the SiLU was given; the first position that each step sees
    for i in tl.static_range(STEPS + K - 1):
        first = _first(starts, begin + i, time, HAS_STARTS)
        s_D = bias_D
        for k in tl.static_range(K):
            s_D += taps[k] * _seen(x_rows[i + k], begin + i - (K - 1) + k, first, HAS_STARTS)
        gate_D = sigmoid(s_D)
        grads = grads + (out_grads[i] * gate_D * (1 + s_D * (1 - gate_D)),)
        firsts = firsts + (first,)
    for i in tl.static_range(STEPS):
        x_grad_D = tl.zeros((GROUP,), tl.float32)
        for ahead in tl.static_range(K):  # x of this step met tap K - 1 - ahead in the output of `ahead` steps later
            x_grad_D += taps[K - 1 - ahead] * _seen(grads[i + ahead], begin + i, firsts[i + ahead], HAS_STARTS)
        tl.store(x_grad + (begin + i) * channels + d_D, x_grad_D, mask=within(d_D, channels, begin + i, time))
    part = (b * tiles + tile) * channels + d_D
    for k in tl.static_range(K):
        tap_grad_D = tl.zeros((GROUP,), tl.float32)
        for i in tl.static_range(STEPS):
            tap_grad_D += grads[i] * _seen(x_rows[i + k], begin + i - (K - 1) + k, firsts[i], HAS_STARTS)
        tl.store(weight_part + part * K + k, tap_grad_D, mask=is_d)
    bias_grad_D = tl.zeros((GROUP,), tl.float32)
    for i in tl.static_range(STEPS):
        bias_grad_D += grads[i]
    tl.store(bias_part + part, bias_grad_D, mask=is_d)


def forward(inputs: Sequence[Tensor], starts_BT: Tensor | None = None) -> Tensor:
    """out_BTD in x's dtype; inputs as `conv_silu` takes them. starts_BT int64: the first position each one sees."""
    x, weight, bias = _prepared(inputs)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        starts = x if starts_BT is None else starts_BT.contiguous()
        grid, shape = _tiles(x, weight)
        _forward[grid](
            x, weight, bias, starts, out, *x.shape[1:], *x.stride()[:2], HAS_STARTS=starts_BT is not None, **shape
        )
    return out


def backward(inputs: Sequence[Tensor], out_grad_BTD: Tensor, starts_BT: Tensor | None = None) -> list[Tensor]:
    """The gradients of x, weight and bias, in their dtypes and contiguous."""
    x, weight, bias = _prepared(inputs)
    grads = [torch.zeros(tensor.shape, dtype=tensor.dtype, device=x.device) for tensor in inputs]
    if not x.numel():
        return grads
    out_grad, starts = rows(out_grad_BTD), x if starts_BT is None else starts_BT.contiguous()
    grid, shape = _tiles(x, weight)
    (batch, time, channels), taps = x.shape, weight.shape[1]
    weight_part = torch.empty(batch, grid[1], channels, taps, dtype=torch.float32, device=x.device)
    bias_part = torch.empty(batch, grid[1], channels, dtype=torch.float32, device=x.device)
    _backward[grid](
        x, weight, bias, starts, out_grad, grads[0], weight_part, bias_part,
        time, channels, grid[1], *x.stride()[:2], *out_grad.stride()[:2], HAS_STARTS=starts_BT is not None, **shape,
    )  # fmt: skip
    grads[1].copy_(weight_part.sum((0, 1)))
    grads[2].copy_(bias_part.sum((0, 1)))
    return grads


def _prepared(inputs: Sequence[Tensor]) -> list[Tensor]:
    x, weight, bias = (tensor.detach() for tensor in inputs)
    return [rows(x), weight.contiguous(), bias.contiguous()]


def _tiles(x_BTD: Tensor, weight_DK: Tensor) -> tuple[tuple[int, int, int], dict[str, int]]:
    batch, time, channels = x_BTD.shape
    grid = (batch, triton.cdiv(time, STEPS), triton.cdiv(channels, GROUP))
    return grid, {"K": weight_DK.shape[1], "STEPS": STEPS, "GROUP": GROUP, "num_warps": 1}
