"""Where torch meets our kernels: what they take, how tensors are shared, how they become operators."""

import importlib.util
from functools import cache

import torch
from torch import Tensor


def takes_rust(tensors: tuple[Tensor, ...]) -> bool:
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def takes_kernel(tensors: tuple[Tensor, ...]) -> bool:
    """By what the tensors are, never by what merely imports: a package for GPUs may be there and fail on a CPU."""
    return takes_rust(tensors) or takes_triton(tensors)


def takes_triton(tensors: tuple[Tensor, ...]) -> bool:
    kinds = (torch.float32, torch.bfloat16)
    return all(tensor.device.type == "cuda" and tensor.dtype in kinds for tensor in tensors) and _has_triton()


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None  # torch brings it, where there is one


def check_shapes(op: str, names: tuple[str, ...], tensors: tuple[Tensor, ...], shapes: tuple[tuple, ...]) -> None:
    for name, tensor, shape in zip(names, tensors, shapes, strict=True):
        if tensor.shape != shape:
            raise ValueError(f"{op}: {name}: expected shape {tuple(shape)}, found {tuple(tensor.shape)}")


def check_starts(op: str, starts_BT: Tensor | None, shape: tuple[int, ...]) -> None:
    if starts_BT is not None:
        check_shapes(op, ("starts",), (starts_BT,), (tuple(shape),))


def starts_of(starts_BT: Tensor | None):
    """What the Rust border takes for the starts of documents."""
    return None if starts_BT is None else starts_BT.numpy()


def rows(tensor: Tensor):
    """What the Rust border takes: an array whose last dimension is contiguous, sharing memory if it already is."""
    tensor = tensor.detach()
    # A gradient of .sum() is expanded: its strides are all 0.
    return (tensor if tensor.stride(-1) == 1 and tensor.dim() == 3 else tensor.contiguous()).numpy()


def like(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in tensors]


def operator(name, function, fake, on_gpu=None):
    """Registers suite::<name> for CPU, and `on_gpu` for CUDA; its schema is read from the annotations. Returns the
    operator.

    Not by torch.library.custom_op: its first call imports torch._dynamo, 5 seconds for every process that trains.
    """
    torch.library.define(f"suite::{name}", torch.library.infer_schema(function, mutates_args=()))
    torch.library.impl(f"suite::{name}", "cpu")(function)
    if on_gpu is not None:
        torch.library.impl(f"suite::{name}", "cuda")(on_gpu)
    torch.library.register_fake(f"suite::{name}")(fake)
    return getattr(torch.ops.suite, name).default
