"""mamba-ssm's own CUDA kernel of the selective scan, where it is installed, works, and bits need not repeat.

That it imports says nothing: it installs without its compiled part and fails at the first call. So it is tried once on
small numbers, against the reference. Its backward adds up gradients of B and C by atomics, in any order.

B batch, T time, D channels, N states.
"""

import importlib.util
from functools import cache

import torch
from torch import Tensor

LARGEST_STATE = 256  # its own limit


def takes(inputs: tuple[Tensor, ...], starts_BT: Tensor | None) -> bool:
    """Whether these inputs of `selective_scan` are for mamba-ssm. It knows no documents within a row."""
    fits = starts_BT is None and inputs[0].numel() > 0
    fits = fits and all(tensor.is_cuda and tensor.dtype == torch.float32 for tensor in inputs)
    return fits and not torch.are_deterministic_algorithms_enabled() and inputs[2].shape[1] <= LARGEST_STATE and works()


def selective_scan(u_BTD, delta_BTD, A_DN, B_BTN, C_BTN, D_D, z_BTD, delta_bias_D) -> Tensor:
    """`ops.selective_scan`, in the layout of mamba-ssm, whose time comes last: it copies what is not laid out so."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore[reportMissingImports]

    u, delta, B, C, z = (tensor.transpose(1, 2) for tensor in (u_BTD, delta_BTD, B_BTN, C_BTN, z_BTD))
    return selective_scan_fn(u, delta, A_DN, B, C, D_D, z, delta_bias_D, delta_softplus=True).transpose(1, 2)


@cache
def works() -> bool:
    """Whether it gives the reference's numbers on this machine's GPU. Asked once."""
    if importlib.util.find_spec("mamba_ssm") is None or importlib.util.find_spec("selective_scan_cuda") is None:
        return False
    from suite.models.ops.scan import selective_scan_reference

    generator = torch.Generator().manual_seed(0)
    btd, btn = (1, 5, 8), (1, 5, 4)
    u, delta, B, C, z = (torch.randn(shape, generator=generator).cuda() for shape in (btd, btd, btn, btn, btd))
    A, D, bias = -torch.rand(8, 4, generator=generator).cuda(), torch.ones(8).cuda(), torch.zeros(8).cuda()
    inputs = (u, delta, A, B, C, D, z, bias)
    try:
        leaves = [tensor.requires_grad_() for tensor in inputs]
        with torch.enable_grad():
            found = selective_scan(*leaves)
            grads = torch.autograd.grad(found.sum(), leaves)
            expected = selective_scan_reference(*leaves)
            expected_grads = torch.autograd.grad(expected.sum(), leaves)
    except Exception:  # whatever an installation that does not fit this torch, driver or GPU may raise
        return False
    pairs = zip((found, *grads), (expected, *expected_grads), strict=True)
    return all(torch.allclose(one, other, rtol=1e-3, atol=1e-4) for one, other in pairs)
