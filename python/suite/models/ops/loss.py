"""Linear output layer and cross-entropy in one: never the logits of more than a few hundred tokens.

M tokens, D hidden, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from suite import _core
from suite.models.ops.border import check_shapes, takes_triton
from suite.models.ops.linear import by_onednn, product

RUST_UP_TO = 128  # hidden size; above it exact products cost more than exponentials, and those are oneDNN's


def linear_cross_entropy(hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, ignore_index: int = -100) -> Tensor:
    """The sum (not the mean) of nats of `targets_M` under the logits hidden @ weight.T, a scalar.

    Never holds [M, V]: takes tokens a chunk at a time and, if gradients are wanted, finds them in the same pass (as
    Liger Kernel does, Hsu et al. 2024). Sums and gradients of half precision are kept in float32. Targets equal to
    `ignore_index` count for nothing. Differentiable once, in hidden and weight. Raises ValueError for shapes that do
    not fit together.
    """
    check_shapes(
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
        if device == "cpu" and dtype == torch.float32 and hidden_MD.shape[1] <= RUST_UP_TO and len(hidden_MD):
            nats, *grads = _rust(hidden_MD, weight_VD, targets_M, ignore_index, wants_hidden or wants_weight)
            ctx.dtypes = hidden_MD.dtype, weight_VD.dtype
            ctx.save_for_backward(*grads)
            return nats
        hidden_grad_MD = torch.empty_like(hidden_MD) if wants_hidden else None
        # Transposed: so hidden.T is the shorter side of the product, and what it gives is added as it lies.
        weight_grad_DV = weight_VD.new_zeros(weight_VD.T.shape, dtype=out_dtype) if wants_weight else None
        nats = hidden_MD.new_zeros((), dtype=torch.float64)
        multiply = product if dtype == torch.float32 and by_onednn(hidden_MD, weight_VD) else F.linear
        with torch.autocast(device, enabled=False):
            weight = weight_VD.to(dtype)
            rows = _rows_per_chunk(hidden_MD.shape[1], device)
            for start in range(0, len(hidden_MD), rows):
                here = slice(start, start + rows)
                hidden, counted = hidden_MD[here].to(dtype), targets_M[here] != ignore_index
                targets = targets_M[here].where(counted, 0).long()[:, None]
                logits = multiply(hidden, weight)
                if takes_triton((hidden, weight)):
                    wants = wants_hidden or wants_weight
                    nats += softmax_gradient_(logits, targets_M[here], ignore_index, wants).sum(dtype=nats.dtype)
                    _add_gradients(hidden_grad_MD, weight_grad_DV, here, logits, hidden, weight, multiply)
                    continue
                log_probs = torch.log_softmax(logits.to(out_dtype), dim=-1)
                nats -= log_probs.gather(1, targets)[:, 0].where(counted, 0).sum()
                if not (wants_hidden or wants_weight):
                    continue
                # d nats / d logits = softmax - one-hot, in the memory of the logarithms.
                logits_grad = log_probs.exp_()
                logits_grad.scatter_add_(1, targets, logits_grad.new_full(targets.shape, -1.0))
                logits_grad = logits_grad.mul_(counted[:, None]).to(dtype)
                _add_gradients(hidden_grad_MD, weight_grad_DV, here, logits_grad, hidden, weight, multiply)
        ctx.dtypes = hidden_MD.dtype, weight_VD.dtype
        ctx.save_for_backward(hidden_grad_MD, None if weight_grad_DV is None else weight_grad_DV.T)
        return nats.to(out_dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grads = (None if saved is None else saved * grad for saved in ctx.saved_tensors)
        hidden_grad, weight_grad = (
            None if g is None else g.to(dtype) for g, dtype in zip(grads, ctx.dtypes, strict=True)
        )
        return hidden_grad, weight_grad, None, None, None


def _rust(hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, ignore_index: int, wants_grads: bool):
    """-> (nats, gradient of hidden, gradient of weight), both in float32 or None."""
    hidden, weight = (tensor.detach().float().contiguous() for tensor in (hidden_MD, weight_VD))
    grads = (torch.empty_like(hidden), torch.empty_like(weight)) if wants_grads else None
    into = (grads[0].numpy(), grads[1].numpy()) if grads else None
    targets = targets_M.long().contiguous().numpy()
    threads = torch.get_num_threads()
    nats = _core.linear_cross_entropy(hidden.numpy(), weight.numpy(), targets, ignore_index, into, threads)
    return torch.tensor(nats, dtype=torch.float64).to(torch.float32), *(grads or (None, None))


def _add_gradients(hidden_grad_MD, weight_grad_DV, here, logits_grad, hidden, weight, multiply) -> None:
    """A chunk's share of both gradients; multiply(a, b) is a @ b.T."""
    if hidden_grad_MD is not None:
        hidden_grad_MD[here] = multiply(logits_grad, weight.T)
    if weight_grad_DV is not None:
        weight_grad_DV += multiply(hidden.T, logits_grad.T)


def softmax_gradient_(logits_MV: Tensor, targets_M: Tensor, ignore_index: int, with_grad: bool) -> Tensor:
    from suite.models.ops import triton_loss  # imports triton, which a CPU need not have

    return triton_loss.softmax_gradient_(logits_MV, targets_M, ignore_index, with_grad)


def _rows_per_chunk(hidden_size: int, device: str) -> int:
    """Tokens per chunk of the cross-entropy, whatever the number of threads: bits must not depend on it.

    On CPU a chunk's logits should stay in the cache while the products are large enough to be efficient: measured best
    with V = 4096, 16 rows at hidden 12, 64 up to 112, 256 at 340. On an accelerator launches cost more than memory.
    """
    if device != "cpu":
        return 4096
    return 16 if hidden_size <= 16 else 64 if hidden_size <= 128 else 256
