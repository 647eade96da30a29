"""The three operations that cost a small model most, each a fast path beside its slow and obvious reference.

On CPU in float32 the selective scan and the causal convolution run in Rust (rust/core/src/kernels): a loop over time in
torch costs some hundred times as much, most of it in backward. Any other device or dtype takes the reference, chosen
by the tensors alone: what happens to be installed never changes a result. The cross-entropy never holds the logits of
more than a few hundred tokens.

Legend: B batch, T time, D channels (in the cross-entropy: hidden), N states, K taps, V vocabulary, M tokens,
C chunks of time.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from suite import _core


def selective_scan(
    u_BTD: Tensor,
    delta_BTD: Tensor,
    A_DN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    D_D: Tensor,
    z_BTD: Tensor,
    delta_bias_D: Tensor,
) -> Tensor:
    """out_BTD = (scan(u) + D u) silu(z), the core of Mamba (Gu and Dao 2023), differentiable in every input.

    dt = softplus(delta + delta_bias), h = exp(dt A) h + dt B u, scan(u) = C . h, from h = 0. A is -exp(A_log). Inputs
    with B and T may be strided; if their last dimension is not contiguous they are copied. Raises ValueError for
    shapes that do not fit together.
    """
    inputs = (u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, D_D, z_BTD, delta_bias_D)
    batch, time, channels = u_BTD.shape
    num_states = A_DN.shape[-1]
    btd, btn = (batch, time, channels), (batch, time, num_states)
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    shapes = (btd, btd, (channels, num_states), btn, btn, (channels,), btd, (channels,))
    _check_shapes("selective_scan", names, inputs, shapes)
    if _takes_rust(inputs):
        return _selective_scan(*inputs)[0]
    return selective_scan_reference(*inputs)


def selective_scan_reference(
    u_BTD: Tensor,
    delta_BTD: Tensor,
    A_DN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    D_D: Tensor,
    z_BTD: Tensor,
    delta_bias_D: Tensor,
) -> Tensor:
    """`selective_scan` as one reads it: a loop over time, on any device. Half precision is computed in float32."""
    dtype = torch.promote_types(u_BTD.dtype, torch.float32)
    inputs = (u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, D_D, z_BTD, delta_bias_D)
    u, delta, A, B, C, D, z, delta_bias = (tensor.to(dtype) for tensor in inputs)
    dt = F.softplus(delta + delta_bias)
    h_BDN = u.new_zeros(u.shape[0], *A.shape)
    ys_BD = []
    # unbind, not [:, t]: the backward of an index writes zeros of the whole array, for every step.
    for u_BD, dt_BD, B_BN, C_BN in zip(u.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        h_BDN = torch.exp(dt_BD[..., None] * A) * h_BDN + (dt_BD * u_BD)[..., None] * B_BN[:, None]
        ys_BD.append((h_BDN * C_BN[:, None]).sum(-1))
    y_BTD = torch.stack(ys_BD, dim=1) if ys_BD else u
    return ((y_BTD + D * u) * F.silu(z)).to(u_BTD.dtype)


def conv_silu(x_BTD: Tensor, weight_DK: Tensor, bias_D: Tensor) -> Tensor:
    """silu(bias + depthwise causal convolution of x over time), [B, T, D]; tap K - 1 meets the present step.

    x may be strided. Raises ValueError for shapes that do not fit together, or more than 8 taps on CPU in float32.
    """
    inputs = (x_BTD, weight_DK, bias_D)
    channels = x_BTD.shape[-1]
    shapes = (tuple(x_BTD.shape), (channels, weight_DK.shape[-1]), (channels,))
    _check_shapes("conv_silu", ("x", "weight", "bias"), inputs, shapes)
    if _takes_rust(inputs):
        return _conv_silu(*inputs)
    return conv_silu_reference(*inputs)


def conv_silu_reference(x_BTD: Tensor, weight_DK: Tensor, bias_D: Tensor) -> Tensor:
    """`conv_silu` in torch's own terms, on any device."""
    channels, taps = weight_DK.shape
    x_BDT = F.pad(x_BTD.transpose(1, 2), (taps - 1, 0))
    return F.silu(F.conv1d(x_BDT, weight_DK[:, None], bias_D, groups=channels)).transpose(1, 2)


def linear_cross_entropy(hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, ignore_index: int = -100) -> Tensor:
    """The sum (not the mean) of nats of `targets_M` under the logits hidden @ weight.T, a scalar.

    Never holds [M, V]: takes tokens a chunk at a time and, if gradients are wanted, finds them in the same pass (as
    Liger Kernel does, Hsu et al. 2024). Sums and gradients of half precision are kept in float32. Targets equal to
    `ignore_index` count for nothing. Differentiable once, in hidden and weight. Raises ValueError for shapes that do
    not fit together.
    """
    _check_shapes(
        "linear_cross_entropy",
        ("hidden", "weight", "targets"),
        (hidden_MD, weight_VD, targets_M),
        ((targets_M.numel(), hidden_MD.shape[-1]), (weight_VD.shape[0], hidden_MD.shape[-1]), (targets_M.numel(),)),
    )
    # Inside a Function gradients are always off, so whether the caller wants them must be asked here.
    return _LinearCrossEntropy.apply(hidden_MD, weight_VD, targets_M, ignore_index, torch.is_grad_enabled())


def linear_cross_entropy_reference(
    hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, ignore_index: int = -100
) -> Tensor:
    """`linear_cross_entropy` with all logits at once."""
    logits_MV = hidden_MD @ weight_VD.T
    logits_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))
    return F.cross_entropy(logits_MV, targets_M, ignore_index=ignore_index, reduction="sum")


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_MD, weight_VD, targets_M, ignore_index, grad_enabled):
        device, out_dtype = hidden_MD.device.type, torch.promote_types(hidden_MD.dtype, torch.float32)
        wants_hidden, wants_weight = (grad_enabled and wanted for wanted in ctx.needs_input_grad[:2])
        # What autocast would do to a product, once instead of once a chunk.
        dtype = torch.promote_types(hidden_MD.dtype, weight_VD.dtype)
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        hidden_grad_MD = torch.empty_like(hidden_MD) if wants_hidden else None
        weight_grad_VD = torch.zeros_like(weight_VD, dtype=out_dtype) if wants_weight else None
        nats = hidden_MD.new_zeros((), dtype=torch.float64)
        with torch.autocast(device, enabled=False):
            weight = weight_VD.to(dtype)
            rows = _rows_per_chunk(hidden_MD.shape[1], device)
            for start in range(0, len(hidden_MD), rows):
                here = slice(start, start + rows)
                hidden, counted = hidden_MD[here].to(dtype), targets_M[here] != ignore_index
                targets = targets_M[here].where(counted, 0).long()[:, None]
                log_probs = torch.log_softmax((hidden @ weight.T).to(out_dtype), dim=-1)
                nats -= log_probs.gather(1, targets)[:, 0].where(counted, 0).sum()
                if not (wants_hidden or wants_weight):
                    continue
                # d nats / d logits = softmax - one-hot, in the memory of the logarithms.
                logits_grad = log_probs.exp_()
                logits_grad.scatter_add_(1, targets, logits_grad.new_full(targets.shape, -1.0))
                logits_grad = logits_grad.mul_(counted[:, None]).to(dtype)
                if hidden_grad_MD is not None:
                    hidden_grad_MD[here] = logits_grad @ weight
                if weight_grad_VD is not None:
                    weight_grad_VD += logits_grad.T @ hidden
        ctx.dtypes = hidden_MD.dtype, weight_VD.dtype
        ctx.save_for_backward(hidden_grad_MD, weight_grad_VD)
        return nats.to(out_dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grads = (None if saved is None else saved * grad for saved in ctx.saved_tensors)
        hidden_grad, weight_grad = (
            None if g is None else g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True)
        )
        return hidden_grad, weight_grad, None, None, None


def _rows_per_chunk(hidden_size: int, device: str) -> int:
    """Tokens per chunk of the cross-entropy, whatever the number of threads: bits must not depend on it.

    On CPU a chunk's logits should stay in the cache while the products are large enough to be efficient: measured best
    with V = 4096, 16 rows at hidden 12, 64 up to 112, 256 at 340. On an accelerator launches cost more than memory.
    """
    if device != "cpu":
        return 4096
    return 16 if hidden_size <= 16 else 64 if hidden_size <= 128 else 256


def _takes_rust(tensors: tuple[Tensor, ...]) -> bool:
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def _check_shapes(op: str, names: tuple[str, ...], tensors: tuple[Tensor, ...], shapes: tuple[tuple, ...]) -> None:
    for name, tensor, shape in zip(names, tensors, shapes, strict=True):
        if tensor.shape != shape:
            raise ValueError(f"{op}: {name}: expected shape {tuple(shape)}, found {tuple(tensor.shape)}")


def _rows(tensor: Tensor):
    """What the Rust border takes: an array whose last dimension is contiguous, sharing memory if it already is."""
    tensor = tensor.detach()
    # A gradient of .sum() is expanded: its strides are all 0.
    return (tensor if tensor.stride(-1) == 1 and tensor.dim() == 3 else tensor.contiguous()).numpy()


def _like(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in tensors]


# --- Rust as torch operators: torch.compile and autograd see shapes, never the kernel. ---


def _operator(name, function, fake):
    """Registers suite::<name> for CPU, its schema read from the annotations. Returns the operator.

    Not by torch.library.custom_op: its first call imports torch._dynamo, 5 seconds for every process that trains.
    """
    torch.library.define(f"suite::{name}", torch.library.infer_schema(function, mutates_args=()))
    torch.library.impl(f"suite::{name}", "cpu")(function)
    torch.library.register_fake(f"suite::{name}")(fake)
    return getattr(torch.ops.suite, name).default


def _selective_scan_rust(
    u_BTD: Tensor,
    delta_BTD: Tensor,
    A_DN: Tensor,
    B_BTN: Tensor,
    C_BTN: Tensor,
    D_D: Tensor,
    z_BTD: Tensor,
    delta_bias_D: Tensor,
) -> tuple[Tensor, Tensor]:
    """-> (out_BTD, states_BCND: h at the start of every chunk of time, for backward)"""
    inputs = [u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, D_D, z_BTD, delta_bias_D]
    out_BTD, states_BCND = _scan_outputs(*inputs)
    arrays = [_rows(tensor) for tensor in inputs]
    _core.selective_scan(arrays, out_BTD.numpy(), states_BCND.numpy(), torch.get_num_threads())
    return out_BTD, states_BCND


def _scan_outputs(u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, D_D, z_BTD, delta_bias_D):
    batch, time, channels = u_BTD.shape
    chunks = (time + _core.SCAN_CHUNK - 1) // _core.SCAN_CHUNK
    return u_BTD.new_empty(u_BTD.shape), u_BTD.new_empty(batch, chunks, A_DN.shape[1], channels)


def _selective_scan_rust_backward(inputs: list[Tensor], states_BCND: Tensor, out_grad_BTD: Tensor) -> list[Tensor]:
    grads = _like(inputs)
    arrays = [_rows(tensor) for tensor in inputs]
    grad_arrays = [grad.numpy() for grad in grads]
    states, out_grad = states_BCND.detach().numpy(), _rows(out_grad_BTD)
    _core.selective_scan_backward(arrays, states, out_grad, grad_arrays, torch.get_num_threads())
    return grads


def _keep_scan(ctx, inputs, output):
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward_scan(ctx, out_grad_BTD, _):
    if out_grad_BTD is None:
        return (None,) * 8
    *inputs, states_BCND = ctx.saved_tensors
    return tuple(_selective_scan_backward(inputs, states_BCND, out_grad_BTD))


_selective_scan = _operator("selective_scan", _selective_scan_rust, _scan_outputs)
_selective_scan_backward = _operator(
    "selective_scan_backward", _selective_scan_rust_backward, lambda inputs, states, out_grad: _like(inputs)
)
torch.library.register_autograd("suite::selective_scan", _backward_scan, setup_context=_keep_scan)


def _conv_silu_rust(x_BTD: Tensor, weight_DK: Tensor, bias_D: Tensor) -> Tensor:
    out_BTD = x_BTD.new_empty(x_BTD.shape)
    _core.conv_silu(_rows(x_BTD), _rows(weight_DK), _rows(bias_D), out_BTD.numpy(), torch.get_num_threads())
    return out_BTD


def _conv_silu_rust_backward(inputs: list[Tensor], out_grad_BTD: Tensor) -> list[Tensor]:
    grads = _like(inputs)
    x, weight, bias = (_rows(tensor) for tensor in inputs)
    grad_arrays = [grad.numpy() for grad in grads]
    _core.conv_silu_backward(x, weight, bias, _rows(out_grad_BTD), grad_arrays, torch.get_num_threads())
    return grads


def _keep_conv(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward_conv(ctx, out_grad_BTD):
    return tuple(_conv_silu_backward(list(ctx.saved_tensors), out_grad_BTD))


_conv_silu = _operator("conv_silu", _conv_silu_rust, lambda x_BTD, weight_DK, bias_D: x_BTD.new_empty(x_BTD.shape))
_conv_silu_backward = _operator("conv_silu_backward", _conv_silu_rust_backward, lambda inputs, out_grad: _like(inputs))
torch.library.register_autograd("suite::conv_silu", _backward_conv, setup_context=_keep_conv)
