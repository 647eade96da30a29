"""What holds on a GPU. Those that need one wait for it; tests/test_triton.py runs the kernels without."""

import pytest
import torch

from suite.models import ops
from suite.models.ops.attention import attention_padded
from test_ops import (
    TOLERANCE,
    assert_close,
    assert_same,
    conv_inputs,
    loss_and_grads,
    loss_inputs,
    scan_inputs,
    with_grads,
)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("documents", [False, True])
@pytest.mark.parametrize("head_dim", [2, 14, 16])
def test_heads_widened_by_zeros_attend_as_they_are(head_dim, documents):
    generator = torch.Generator().manual_seed(head_dim)
    inputs = [torch.randn(2, 3, 9, head_dim, generator=generator) for _ in range(3)]
    starts = torch.tensor([t // 4 * 4 for t in range(9)]).expand(2, 9) if documents else None
    seen = ops.attention.seen(starts)[:, None] if starts is not None else None
    expected = with_grads(lambda *x: ops.causal_attention_reference(*x, starts), [tensor.double() for tensor in inputs])
    assert_close(with_grads(lambda *x: attention_padded(*x, seen), inputs), expected, TOLERANCE)


def on_gpu(tensors):
    return [tensor.cuda() for tensor in tensors]


def on_cpu(tensors):
    return [tensor.cpu() for tensor in tensors]


@needs_gpu
@pytest.mark.parametrize("shape", [(2, 70, 24, 16), (1, 33, 40, 5), (2, 1, 48, 16), (1, 40, 130, 70), (0, 5, 8, 3)])
def test_scan_is_the_reference_and_repeats_its_bits(shape):
    inputs = scan_inputs(*shape)
    expected = with_grads(ops.selective_scan_reference, [tensor.double() for tensor in inputs])
    found = with_grads_on_gpu(ops.selective_scan, inputs)
    assert_close(found, expected, TOLERANCE)
    assert_same(with_grads_on_gpu(ops.selective_scan, inputs), found)


@needs_gpu
@pytest.mark.parametrize("shape", [(2, 70, 24, 4), (1, 33, 40, 1), (2, 64, 136, 8)])
def test_convolution_is_the_reference_and_repeats_its_bits(shape):
    inputs = conv_inputs(*shape)
    expected = with_grads(ops.conv_silu_reference, [tensor.double() for tensor in inputs])
    found = with_grads_on_gpu(ops.conv_silu, inputs)
    assert_close(found, expected, TOLERANCE)
    assert_same(with_grads_on_gpu(ops.conv_silu, inputs), found)


def with_grads_on_gpu(op, inputs):
    """`with_grads`, whose gradient of out is drawn on the CPU."""
    leaves = [tensor.detach().cuda().requires_grad_() for tensor in inputs]
    out = op(*leaves)
    generator = torch.Generator().manual_seed(7)
    out_grad = torch.randn(out.transpose(0, -1).shape, generator=generator).transpose(0, -1).cuda()
    return on_cpu([out.detach(), *torch.autograd.grad(out, leaves, out_grad)])


@needs_gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 4e-6), (torch.bfloat16, 2e-2)])
def test_linear_cross_entropy_is_the_reference_and_repeats_its_bits(dtype, tolerance):
    inputs = loss_inputs(5000, 48, 300, dtype)
    expected = loss_and_grads(ops.linear_cross_entropy_reference, *loss_inputs(5000, 48, 300, torch.float64))
    if dtype == torch.bfloat16:
        expected = loss_and_grads(ops.linear_cross_entropy_reference, *inputs)
    found = on_cpu(loss_and_grads(ops.linear_cross_entropy, *on_gpu(inputs)))
    assert_close(found, expected, tolerance)
    assert_same(on_cpu(loss_and_grads(ops.linear_cross_entropy, *on_gpu(inputs))), found)
