"""Mamba's selective scan. A loop over time in torch costs some hundred times the kernel, most of it in backward.

B batch, T time, D channels, N states, C chunks of time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from suite import _core
from suite.models.ops import mamba_ssm
from suite.models.ops.border import (
    check_shapes,
    check_starts,
    like,
    operator,
    rows,
    starts_of,
    takes_kernel,
    takes_rust,
)

TRITON_CHUNK = 8  # steps between the states that forward keeps on a GPU


def selective_scan(
    u_BTD: Tensor,
    delta_BTD: Tensor,
    A_DN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    D_D: Tensor,
    z_BTD: Tensor,
    delta_bias_D: Tensor,
    starts_BT: Tensor | None = None,
) -> Tensor:
    """out_BTD = (scan(u) + D u) silu(z), the core of Mamba (Gu and Dao 2023), differentiable in every input.

    dt = softplus(delta + delta_bias), h = exp(dt A) h + dt B u, scan(u) = C . h, from h = 0: of every row, or with
    `starts_BT` (models/documents.py) of every document. A is -exp(A_log). Inputs with B and T may be strided; if their
    last dimension is not contiguous they are copied. Raises ValueError for shapes that do not fit together.
    """
    inputs = (u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, D_D, z_BTD, delta_bias_D)
    batch, time, channels = u_BTD.shape
    num_states = A_DN.shape[-1]
    btd, btn = (batch, time, channels), (batch, time, num_states)
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    shapes = (btd, btd, (channels, num_states), btn, btn, (channels,), btd, (channels,))
    check_shapes("selective_scan", names, inputs, shapes)
    check_starts("selective_scan", starts_BT, (batch, time))
    if mamba_ssm.takes(inputs, starts_BT):
        return mamba_ssm.selective_scan(*inputs)
    if takes_kernel(inputs):
        return _selective_scan(*inputs, starts_BT)[0]
    return selective_scan_reference(*inputs, starts_BT)


def selective_scan_reference(
    u_BTD: Tensor,
    delta_BTD: Tensor,
    A_DN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    D_D: Tensor,
    z_BTD: Tensor,
    delta_bias_D: Tensor,
    starts_BT: Tensor | None = None,
) -> Tensor:
    """`selective_scan` as one reads it: a loop over time, on any device. Half precision is computed in float32."""
    inputs = (u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, D_D, z_BTD, delta_bias_D)
    return _scan_by_steps(inputs, starts_BT, None)[0]


def _scan_by_steps(inputs: tuple[Tensor, ...], starts_BT: Tensor | None, h_BDN: Tensor | None) -> tuple[Tensor, Tensor]:
    """-> (out_BTD, h_BDN after the last step)"""
    dtype = torch.promote_types(inputs[0].dtype, torch.float32)
    u, delta, A, B, C, D, z, delta_bias = (tensor.to(dtype) for tensor in inputs)
    dt = F.softplus(delta + delta_bias)
    h_BDN = u.new_zeros(u.shape[0], *A.shape) if h_BDN is None else h_BDN.to(dtype)
    begins = torch.zeros(u.shape[:2], dtype=torch.bool, device=u.device)
    if starts_BT is not None:
        begins = starts_BT == torch.arange(u.shape[1], device=u.device)
    ys_BD = []
    # unbind, not [:, t]: the backward of an index writes zeros of the whole array, for every step.
    steps = zip(u.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), begins.unbind(1), strict=True)
    for u_BD, dt_BD, B_BN, C_BN, begins_B in steps:
        if starts_BT is not None:
            h_BDN = h_BDN.masked_fill(begins_B[:, None, None], 0.0)
        h_BDN = torch.exp(dt_BD[..., None] * A) * h_BDN + (dt_BD * u_BD)[..., None] * B_BN[:, None]
        ys_BD.append((h_BDN * C_BN[:, None]).sum(-1))
    y_BTD = torch.stack(ys_BD, dim=1) if ys_BD else u
    return ((y_BTD + D * u) * F.silu(z)).to(inputs[0].dtype), h_BDN


@torch.no_grad()
def advance_scan(state_BND: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """`selective_scan` of its eight `inputs` from h = state instead of 0 -> (out_BTD, the state after the last step).

    Without gradients. A text that is read in pieces has the bits of one that is read at once.
    """
    if not takes_rust((state_BND, *inputs)):
        out_BTD, h_BDN = _scan_by_steps(inputs, None, state_BND.transpose(1, 2))
        return out_BTD, h_BDN.transpose(1, 2)
    out_BTD, state_BND = torch.empty(inputs[0].shape), state_BND.clone(memory_format=torch.contiguous_format)
    arrays = [rows(tensor) for tensor in inputs]
    _core.selective_scan_advance(arrays, state_BND.numpy(), out_BTD.numpy(), torch.get_num_threads())
    return out_BTD, state_BND


def _selective_scan_rust(
    u_BTD: Tensor,
    delta_BTD: Tensor,
    A_DN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    D_D: Tensor,
    z_BTD: Tensor,
    delta_bias_D: Tensor,
    starts_BT: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """-> (out_BTD, states_BCND: h at the start of every chunk of time, for backward)"""
    inputs = [u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, D_D, z_BTD, delta_bias_D]
    out_BTD, states_BCND = _scan_outputs(*inputs)
    arrays = [rows(tensor) for tensor in inputs]
    states = states_BCND.numpy()
    _core.selective_scan(arrays, out_BTD.numpy(), states, torch.get_num_threads(), starts_of(starts_BT))
    return out_BTD, states_BCND


def _scan_outputs(u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, D_D, z_BTD, delta_bias_D, starts_BT=None):
    batch, time, channels = u_BTD.shape
    chunk = TRITON_CHUNK if u_BTD.device.type == "cuda" else _core.SCAN_CHUNK
    states_BCND = u_BTD.new_empty(batch, -(-time // chunk), A_DN.shape[1], channels, dtype=torch.float32)
    return u_BTD.new_empty(u_BTD.shape), states_BCND


def _selective_scan_rust_backward(
    inputs: list[Tensor], states_BCND: Tensor, out_grad_BTD: Tensor, starts_BT: Tensor | None = None
) -> list[Tensor]:
    grads = like(inputs)
    arrays = [rows(tensor) for tensor in inputs]
    grad_arrays = [grad.numpy() for grad in grads]
    states, out_grad, starts = states_BCND.detach().numpy(), rows(out_grad_BTD), starts_of(starts_BT)
    _core.selective_scan_backward(arrays, states, out_grad, grad_arrays, torch.get_num_threads(), starts)
    return grads


def _keep_scan(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward_scan(ctx, out_grad_BTD, _):
    if out_grad_BTD is None:
        return (None,) * 9
    *inputs, starts_BT, states_BCND = ctx.saved_tensors
    return (*_selective_scan_backward(inputs, states_BCND, out_grad_BTD, starts_BT), None)


def _selective_scan_triton(*inputs_and_starts):
    from suite.models.ops import triton_scan

    return triton_scan.forward(inputs_and_starts[:8], *inputs_and_starts[8:])


def _selective_scan_triton_backward(inputs, states_BCND, out_grad_BTD, starts_BT=None):
    from suite.models.ops import triton_scan

    return triton_scan.backward(inputs, states_BCND, out_grad_BTD, starts_BT)


_selective_scan = operator("selective_scan", _selective_scan_rust, _scan_outputs, on_gpu=_selective_scan_triton)
_selective_scan_backward = operator(
    "selective_scan_backward",
    _selective_scan_rust_backward,
    lambda inputs, states, out_grad, starts=None: like(inputs),
    on_gpu=_selective_scan_triton_backward,
)
torch.library.register_autograd("suite::selective_scan", _backward_scan, setup_context=_keep_scan)
