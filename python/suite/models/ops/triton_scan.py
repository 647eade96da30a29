"""Mamba's selective scan on a GPU, in Triton: the algorithm of rust/core/src/kernels/scan.rs.

One warp takes one sequence and some channels through all of time with their states in registers, STEPS steps at a time:
first every load, then the arithmetic, then every store. Forward keeps the state before every STEPS steps; backward
computes the states between from there again, so nothing of size [B, T, D, N] is ever in memory. Sums over channels and
sequences are written as parts and added in a fixed order: no atomics, so bits repeat. They do not depend on the rest
of the batch either. Arithmetic is float32, whatever the inputs are.

B batch, T time, D channels, N states, S chunks of STEPS steps, G groups of channels.
"""

# Kernels are Python to a reader only: triton compiles them, and its values have no types here.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

STEPS = 8  # what a warp holds of time in registers, backward's states among them
LOG2_E = tl.constexpr(1.4426950408889634)
TILE = 256  # states times channels in a warp: 8 registers of a thread for each array of this shape


@triton.jit
def sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _softplus(x):
    """log(1 + exp(x)). Not by log, which loses all of it where x is -10: 2 artanh(v / (2 + v)) is log(1 + v)."""
    v = tl.exp(-tl.abs(x))
    s = v / (2 + v)
    q = s * s
    series = 1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13 + q / 15)))))
    return tl.maximum(x, 0.0) + 2 * s * (1 + q * series)


@triton.jit
def within(at, size, t, time):
    """at < size and t < time. Not by &, which Triton's interpreter makes a number of where one side is a scalar."""
    return at < tl.where(t < time, size, 0)


@triton.jit
def row(base, t, stride, at, mask):
    return tl.load(base + t * stride + at, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _decay(dt_D, A_ND, starts, t, HAS_STARTS: tl.constexpr):
    """exp(dt A), or 0 at the first position of a document: nothing before it is seen."""
    decay_ND = tl.exp2(dt_D[None, :] * A_ND)
    if HAS_STARTS:
        decay_ND = tl.where(tl.load(starts + t) < t, decay_ND, 0.0)
    return decay_ND


@triton.jit
def _forward(
    u, delta, A, B, C, D, z, bias, starts, out, states,
    time, channels, num_states, chunks, u_b, u_t, delta_b, delta_t, B_b, B_t, C_b, C_t, z_b, z_t,
    HAS_STARTS: tl.constexpr, STEPS: tl.constexpr, N: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * GROUP + tl.arange(0, GROUP)
    n = tl.arange(0, N)
    is_d, is_n = d < channels, n < num_states
    is_nd = is_n[:, None] & is_d[None, :]
    nd = n[:, None] * channels + d[None, :]
    A_ND = tl.load(A + nd, mask=is_nd, other=0.0).to(tl.float32) * LOG2_E
    D_D = tl.load(D + d, mask=is_d, other=0.0).to(tl.float32)
    bias_D = tl.load(bias + d, mask=is_d, other=0.0).to(tl.float32)
    u, delta, z, B, C = u + b * u_b, delta + b * delta_b, z + b * z_b, B + b * B_b, C + b * C_b
    out, starts = out + b * time * channels, starts + b * time
    h_ND = tl.zeros((N, GROUP), tl.float32)
    for chunk in range(chunks):
        tl.store(states + (b * chunks + chunk) * num_states * channels + nd, h_ND, mask=is_nd)
        us, xs, zs, Bs, Cs, ys = (), (), (), (), (), ()
        for i in tl.static_range(STEPS):
            t = chunk * STEPS + i
            here_D, here_N = within(d, channels, t, time), within(n, num_states, t, time)
            us = us + (row(u, t, u_t, d, here_D),)
            xs = xs + (row(delta, t, delta_t, d, here_D),)
            zs = zs + (row(z, t, z_t, d, here_D),)
            Bs = Bs + (row(B, t, B_t, n, here_N),)
            Cs = Cs + (row(C, t, C_t, n, here_N),)
        for i in tl.static_range(STEPS):
            dt_D = _softplus(xs[i] + bias_D)
            decay_ND = _decay(dt_D, A_ND, starts, tl.minimum(chunk * STEPS + i, time - 1), HAS_STARTS)
            h_ND = decay_ND * h_ND + (dt_D * us[i])[None, :] * Bs[i][:, None]
            y_D = tl.sum(h_ND * Cs[i][:, None], axis=0) + D_D * us[i]
            ys = ys + (y_D * zs[i] * sigmoid(zs[i]),)
        for i in tl.static_range(STEPS):
            t = chunk * STEPS + i
            tl.store(out + t * channels + d, ys[i], mask=within(d, channels, t, time))


@triton.jit
def _backward(
    u, delta, A, B, C, D, z, bias, starts, out_grad, states,
    u_grad, delta_grad, z_grad, A_part, B_part, C_part, D_part, bias_part,
    time, channels, num_states, chunks, u_b, u_t, delta_b, delta_t, B_b, B_t, C_b, C_t, z_b, z_t, out_b, out_t,
    HAS_STARTS: tl.constexpr, STEPS: tl.constexpr, N: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    b, group = tl.program_id(0).to(tl.int64), tl.program_id(1)
    d = group * GROUP + tl.arange(0, GROUP)
    n = tl.arange(0, N)
    is_d, is_n = d < channels, n < num_states
    is_nd = is_n[:, None] & is_d[None, :]
    nd = n[:, None] * channels + d[None, :]
    A_ND = tl.load(A + nd, mask=is_nd, other=0.0).to(tl.float32) * LOG2_E
    D_D = tl.load(D + d, mask=is_d, other=0.0).to(tl.float32)
    bias_D = tl.load(bias + d, mask=is_d, other=0.0).to(tl.float32)
    u, delta, z, B, C = u + b * u_b, delta + b * delta_b, z + b * z_b, B + b * B_b, C + b * C_b
    out_grad, starts = out_grad + b * out_b, starts + b * time
    first = b * time * channels
    u_grad, delta_grad, z_grad = u_grad + first, delta_grad + first, z_grad + first
    part = (b * tl.num_programs(1) + group) * time * num_states
    B_part, C_part = B_part + part, C_part + part
    h_grad_ND = tl.zeros((N, GROUP), tl.float32)  # of the state before the steps that are done
    A_grad_ND = tl.zeros((N, GROUP), tl.float32)
    D_grad_D = tl.zeros((GROUP,), tl.float32)
    bias_grad_D = tl.zeros((GROUP,), tl.float32)
    for back in range(chunks):
        chunk = chunks - 1 - back
        h_ND = tl.load(states + (b * chunks + chunk) * num_states * channels + nd, mask=is_nd, other=0.0)
        us, xs, zs, gs, Bs, Cs, hs, decays = (), (), (), (), (), (), (h_ND,), ()
        for i in tl.static_range(STEPS):
            t = chunk * STEPS + i
            here_D, here_N = within(d, channels, t, time), within(n, num_states, t, time)
            us = us + (row(u, t, u_t, d, here_D),)
            xs = xs + (row(delta, t, delta_t, d, here_D),)
            zs = zs + (row(z, t, z_t, d, here_D),)
            gs = gs + (row(out_grad, t, out_t, d, here_D),)
            Bs = Bs + (row(B, t, B_t, n, here_N),)
            Cs = Cs + (row(C, t, C_t, n, here_N),)
        for i in tl.static_range(STEPS):
            dt_D = _softplus(xs[i] + bias_D)
            decays = decays + (_decay(dt_D, A_ND, starts, tl.minimum(chunk * STEPS + i, time - 1), HAS_STARTS),)
            h_ND = decays[i] * h_ND + (dt_D * us[i])[None, :] * Bs[i][:, None]
            hs = hs + (h_ND,)
        D_sum_D = tl.zeros((GROUP,), tl.float32)  # a chunk's first: a sum over all of time would lose bits as it grows
        bias_sum_D = tl.zeros((GROUP,), tl.float32)
        A_sum_ND = tl.zeros((N, GROUP), tl.float32)
        for i in tl.static_range(STEPS - 1, -1, -1):
            t = chunk * STEPS + i
            here_D, here_N = within(d, channels, t, time), within(n, num_states, t, time)
            gate_D = sigmoid(zs[i])
            y_D = tl.sum(hs[i + 1] * Cs[i][:, None], axis=0) + D_D * us[i]
            y_grad_D = gs[i] * zs[i] * gate_D
            tl.store(z_grad + t * channels + d, gs[i] * y_D * gate_D * (1 + zs[i] * (1 - gate_D)), mask=here_D)
            h_grad_ND += y_grad_D[None, :] * Cs[i][:, None]
            dt_D = _softplus(xs[i] + bias_D)
            tl.store(C_part + t * num_states + n, tl.sum(hs[i + 1] * y_grad_D[None, :], axis=1), mask=here_N)
            tl.store(B_part + t * num_states + n, tl.sum(h_grad_ND * (dt_D * us[i])[None, :], axis=1), mask=here_N)
            dtu_grad_D = tl.sum(h_grad_ND * Bs[i][:, None], axis=0)
            h_grad_ND = h_grad_ND * decays[i]
            exponent_grad_ND = h_grad_ND * hs[i]
            A_sum_ND += exponent_grad_ND * dt_D[None, :]
            dt_grad_D = dtu_grad_D * us[i] + tl.sum(exponent_grad_ND * A_ND, axis=0) / LOG2_E
            x_grad_D = dt_grad_D * sigmoid(xs[i] + bias_D)
            tl.store(u_grad + t * channels + d, dtu_grad_D * dt_D + D_D * y_grad_D, mask=here_D)
            tl.store(delta_grad + t * channels + d, x_grad_D, mask=here_D)
            D_sum_D += y_grad_D * us[i]
            bias_sum_D += x_grad_D
        A_grad_ND += A_sum_ND
        D_grad_D += D_sum_D
        bias_grad_D += bias_sum_D
    tl.store(A_part + b * num_states * channels + nd, A_grad_ND, mask=is_nd)
    tl.store(D_part + b * channels + d, D_grad_D, mask=is_d)
    tl.store(bias_part + b * channels + d, bias_grad_D, mask=is_d)


def num_chunks(time: int) -> int:
    return triton.cdiv(time, STEPS)


def forward(inputs: Sequence[Tensor], starts_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """-> out_BTD in u's dtype, and states_BSND float32 for `backward`. inputs as `selective_scan` takes them.

    starts_BT int64: the first position of each one's document; None: every row is one document.
    """
    u, delta, A, B, C, D, z, bias = _prepared(inputs)
    batch, time, channels = u.shape
    out = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    states = torch.empty(batch, num_chunks(time), A.shape[0], channels, dtype=torch.float32, device=u.device)
    if not out.numel():
        return out, states
    starts = starts_BT.contiguous() if starts_BT is not None else None
    grid, shape = _tiles(u, A)
    strides = [stride for tensor in (u, delta, B, C, z) for stride in tensor.stride()[:2]]
    _forward[grid](
        u, delta, A, B, C, D, z, bias, u if starts is None else starts, out, states,
        time, channels, A.shape[0], states.shape[1], *strides, HAS_STARTS=starts is not None, **shape,
    )  # fmt: skip
    return out, states


def backward(
    inputs: Sequence[Tensor], states_BSND: Tensor, out_grad_BTD: Tensor, starts_BT: Tensor | None = None
) -> list[Tensor]:
    """The gradient of every input, in its dtype and contiguous."""
    u, delta, A, B, C, D, z, bias = _prepared(inputs)
    batch, time, channels = u.shape
    states = A.shape[0]
    grads = [torch.zeros(tensor.shape, dtype=tensor.dtype, device=u.device) for tensor in inputs]
    if not u.numel():
        return grads
    out_grad = rows(out_grad_BTD)
    starts = starts_BT.contiguous() if starts_BT is not None else None
    grid, shape = _tiles(u, A)

    def parts(*size: int) -> Tensor:
        return torch.empty(size, dtype=torch.float32, device=u.device)

    B_part, C_part = parts(batch, grid[1], time, states), parts(batch, grid[1], time, states)
    A_part, D_part, bias_part = parts(batch, states, channels), parts(batch, channels), parts(batch, channels)
    u_grad, delta_grad, A_grad, B_grad, C_grad, D_grad, z_grad, bias_grad = grads
    strides = [stride for tensor in (u, delta, B, C, z, out_grad) for stride in tensor.stride()[:2]]
    _backward[grid](
        u, delta, A, B, C, D, z, bias, u if starts is None else starts, out_grad, states_BSND,
        u_grad, delta_grad, z_grad, A_part, B_part, C_part, D_part, bias_part,
        time, channels, states, states_BSND.shape[1], *strides, HAS_STARTS=starts is not None, **shape,
    )  # fmt: skip
    A_grad.copy_(A_part.sum(0).T)
    B_grad.copy_(B_part.sum(1))
    C_grad.copy_(C_part.sum(1))
    D_grad.copy_(D_part.sum(0))
    bias_grad.copy_(bias_part.sum(0))
    return grads


def rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _prepared(inputs: Sequence[Tensor]) -> list[Tensor]:
    """Last dimensions contiguous, and A as [N, D], so that a warp reads it as it reads everything else."""
    u, delta, A, B, C, D, z, bias = (tensor.detach() for tensor in inputs)
    u, delta, B, C, z = (rows(tensor) for tensor in (u, delta, B, C, z))
    return [u, delta, A.T.contiguous(), B, C, D.contiguous(), z, bias.contiguous()]


def _tiles(u_BTD: Tensor, A_ND: Tensor) -> tuple[tuple[int, int], dict[str, int]]:
    """The grid, and what shapes a program. By channels and states alone: bits must not depend on the batch."""
    padded = triton.next_power_of_2(A_ND.shape[0])
    group = max(1, min(TILE // padded, triton.next_power_of_2(A_ND.shape[1])))
    grid = (u_BTD.shape[0], triton.cdiv(A_ND.shape[1], group))
    return grid, {"STEPS": STEPS, "N": padded, "GROUP": group, "num_warps": 1}
