"""The Triton kernels as Triton's interpreter runs them; test_triton.py starts this with TRITON_INTERPRET=1."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from suite.models import ops
from suite.models.ops import triton_conv, triton_loss, triton_scan
from test_ops import TOLERANCE, assert_close, assert_same, conv_inputs, loss_inputs, scan_inputs, strided, with_grads


@pytest.fixture(autouse=True)
def short_tiles(monkeypatch):
    """The interpreter takes a tenth of a millisecond for every line of an unrolled loop."""
    monkeypatch.setattr(triton_conv, "STEPS", 4)


def scan(*inputs: Tensor, starts: Tensor | None = None) -> Tensor:
    class Scan(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            out, states = triton_scan.forward(inputs, starts)
            ctx.save_for_backward(*inputs, states)
            return out

        @staticmethod
        def backward(ctx, out_grad):
            *inputs, states = ctx.saved_tensors
            return tuple(triton_scan.backward(inputs, states, out_grad, starts))

    return Scan.apply(*inputs)


def conv(*inputs: Tensor, starts: Tensor | None = None) -> Tensor:
    class Conv(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *inputs):
            ctx.save_for_backward(*inputs)
            return triton_conv.forward(inputs, starts)

        @staticmethod
        def backward(ctx, out_grad):
            return tuple(triton_conv.backward(ctx.saved_tensors, out_grad, starts))

    return Conv.apply(*inputs)


def doubles(inputs: list[Tensor]) -> list[Tensor]:
    return [tensor.double() for tensor in inputs]


# Steps around a chunk of 8, channels around a group, states that are no power of two.
@pytest.mark.parametrize("shape", [(1, 17, 24, 16), (2, 9, 70, 5), (1, 8, 5, 40), (3, 1, 1, 1)])
def test_scan_and_its_gradients_are_the_reference_in_float64(shape):
    inputs = scan_inputs(*shape)
    expected = with_grads(ops.selective_scan_reference, doubles(inputs))
    assert_close(with_grads(scan, inputs), expected, TOLERANCE)


def test_scan_holds_at_both_ends_of_softplus_and_decay():
    inputs = scan_inputs(1, 12, 24, 16)
    inputs[1] = inputs[1] * 40
    assert_close(with_grads(scan, inputs), with_grads(ops.selective_scan_reference, doubles(inputs)), TOLERANCE)


@pytest.mark.parametrize("shape", [(1, 9, 8, 4), (2, 5, 40, 1), (1, 1, 8, 8)])
def test_convolution_and_its_gradients_are_the_reference_in_float64(shape):
    inputs = conv_inputs(*shape)
    assert_close(with_grads(conv, inputs), with_grads(ops.conv_silu_reference, doubles(inputs)), TOLERANCE)


def test_half_precision_is_computed_in_float32():
    """The results are those of the same values in float32, but for being rounded to bfloat16 at the end."""
    for op, inputs in ((scan, scan_inputs(1, 9, 8, 4)), (conv, conv_inputs(1, 9, 8, 4))):
        half = [tensor.bfloat16() for tensor in inputs]
        expected = with_grads(op, [tensor.float() for tensor in half])
        found = with_grads(op, half)
        assert all(tensor.dtype == torch.bfloat16 for tensor in found)
        assert_close(found, expected, 2**-7)  # out_grad is rounded too


def test_strided_inputs_give_the_bits_of_contiguous_ones():
    inputs = scan_inputs(1, 9, 8, 4)
    cut = [strided(tensor, 3) if tensor.dim() == 3 else tensor for tensor in inputs]
    assert_same(with_grads(scan, cut), with_grads(scan, inputs))
    x, weight, bias = conv_inputs(1, 9, 8, 4)
    assert_same(with_grads(conv, [strided(x, 2), weight, bias]), with_grads(conv, [x, weight, bias]))


@pytest.mark.parametrize("op, inputs", [(scan, scan_inputs(1, 19, 8, 3)), (conv, conv_inputs(1, 19, 8, 4))])
def test_a_document_in_a_row_is_the_document_alone(op, inputs):
    """Its outputs are the same bits; gradients of what all documents share are sums over them."""
    begins = [0, 1, 6, 8, 19]
    starts = torch.zeros(1, 19, dtype=torch.int64)
    for begin in begins[:-1]:
        starts[:, begin:] = begin
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = op(*leaves, starts=starts)
    out_grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    found = [out.detach(), *torch.autograd.grad(out, leaves, out_grad)]
    expected = [torch.zeros_like(tensor) for tensor in found]
    for begin, end in pairwise(begins):
        alone = [t[:, begin:end].detach().requires_grad_() if t.dim() == 3 else t.requires_grad_() for t in inputs]
        out = op(*alone)
        assert torch.equal(out, found[0][:, begin:end])
        for total, grad in zip(expected[1:], torch.autograd.grad(out, alone, out_grad[:, begin:end]), strict=True):
            (total[:, begin:end] if total.dim() == 3 else total).add_(grad)
    assert_close(found[1:], expected[1:], TOLERANCE)


@pytest.mark.parametrize("vocab_size, piece", [(9, 8192), (300, 64), (128, 64)])
def test_softmax_s_gradient_is_the_reference_s(vocab_size, piece, monkeypatch):
    monkeypatch.setattr(triton_loss, "MOST_AT_ONCE", piece)
    hidden, weight, targets = loss_inputs(12, 6, vocab_size, torch.float32)
    logits = (hidden @ weight.T * 20).requires_grad_()
    expected = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    (expected_grad,) = torch.autograd.grad(expected.sum(), logits)
    found = logits.detach().clone()
    nats = triton_loss.softmax_gradient_(found, targets, -100, with_grad=False)
    assert torch.equal(found, logits) and (nats[targets == -100] == 0).all()
    again = triton_loss.softmax_gradient_(found, targets, -100, with_grad=True)
    assert_same([again], [nats])
    assert_close([nats, found], [expected, expected_grad.double()], TOLERANCE)


def test_a_target_outside_the_vocabulary_is_not_a_number():
    logits, targets = torch.zeros(2, 5), torch.tensor([1, 5])
    nats = triton_loss.softmax_gradient_(logits, targets, -100, with_grad=True)
    assert nats[0] == pytest.approx(1.6094379) and nats[1].isnan()


def test_nothing_to_do_is_not_an_error():
    for batch, time in ((0, 5), (2, 0)):
        out, *grads = with_grads(scan, scan_inputs(batch, time, 8, 3))
        assert out.shape == (batch, time, 8) and all(not grad.any() for grad in grads)
    assert triton_loss.softmax_gradient_(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64), -100, True).shape == (0,)
