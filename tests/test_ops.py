"""The fast paths are the references, to within float32; their bits depend on nothing but the numbers that go in."""

import sys

import pytest
import torch
from torch import Tensor

from suite.models import ops
from suite.models.build import build, initialize
from suite.models.config import LlamaConfig, MambaConfig
from suite.models.llama import RMSNorm
from suite.training import step

# Errors are measured against the largest value of an array. One is a sum of up to B T N products or so, each rounded by
# 6e-8, and 20 to 40 roundings lie between an input and it: 1e-7 to 5e-7 was measured, for torch's own float32 loop too.
TOLERANCE = 2e-6


def scan_inputs(batch: int, time: int, channels: int, num_states: int, dtype=torch.float32) -> list[Tensor]:
    torch.manual_seed(time * channels + num_states)
    btd, btn = (batch, time, channels), (batch, time, num_states)
    u, delta, B, C, z = (torch.randn(shape, dtype=dtype) for shape in (btd, btd, btn, btn, btd))
    A = -torch.rand(channels, num_states, dtype=dtype) * num_states
    D, delta_bias = torch.randn(channels, dtype=dtype), torch.randn(channels, dtype=dtype) - 2
    return [u, delta, A, B, C, D, z, delta_bias]


def conv_inputs(batch: int, time: int, channels: int, taps: int, dtype=torch.float32) -> list[Tensor]:
    torch.manual_seed(time * channels + taps)
    return [torch.randn(shape, dtype=dtype) for shape in ((batch, time, channels), (channels, taps), (channels,))]


def with_grads(op, inputs: list[Tensor]) -> list[Tensor]:
    """out and the gradient of every input, for a gradient of out that is neither constant nor contiguous."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = op(*leaves)
    generator = torch.Generator().manual_seed(7)
    out_grad = torch.randn(out.transpose(0, -1).shape, generator=generator).transpose(0, -1).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, leaves, out_grad)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for i, (f, e) in enumerate(zip(found, expected, strict=True)):
        if f.numel():  # where every value is 0, as A's gradient after one step, nothing is forgiven
            error, largest = (f.double() - e.double()).abs().max(), e.double().abs().max()
            assert error <= tolerance * largest, f"{i}: {error:.1e} where the largest value is {largest:.1e}"


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


SCANS = [(2, 70, 24, 16), (1, 33, 40, 5), (2, 1, 48, 16), (2, 64, 72, 3), (1, 40, 130, 70), (3, 5, 1, 1)]


@pytest.mark.parametrize("shape", SCANS)
def test_scan_and_its_gradients_are_the_reference_in_float64(shape):
    inputs = scan_inputs(*shape)
    expected = with_grads(ops.selective_scan_reference, [tensor.double() for tensor in inputs])
    assert_close(with_grads(ops.selective_scan, inputs), expected, TOLERANCE)


def test_scan_holds_at_both_ends_of_softplus_and_decay():
    inputs = scan_inputs(2, 40, 24, 16)
    inputs[1] = inputs[1] * 40  # delta from -120 to 120: dt from 0 to 120, exp(dt A) down to 0
    expected = with_grads(ops.selective_scan_reference, [tensor.double() for tensor in inputs])
    assert_close(with_grads(ops.selective_scan, inputs), expected, TOLERANCE)


@pytest.mark.parametrize("shape", [(2, 70, 24, 4), (1, 33, 40, 1), (2, 1, 48, 3), (2, 64, 136, 8)])
def test_convolution_and_its_gradients_are_the_reference_in_float64(shape):
    inputs = conv_inputs(*shape)
    expected = with_grads(ops.conv_silu_reference, [tensor.double() for tensor in inputs])
    assert_close(with_grads(ops.conv_silu, inputs), expected, TOLERANCE)


def test_reference_gradients_are_those_of_finite_differences():
    inputs = [tensor.requires_grad_() for tensor in scan_inputs(1, 3, 2, 2, torch.float64)]
    assert torch.autograd.gradcheck(ops.selective_scan_reference, inputs)
    inputs = [tensor.requires_grad_() for tensor in conv_inputs(1, 3, 2, 2, torch.float64)]
    assert torch.autograd.gradcheck(ops.conv_silu_reference, inputs)


def strided(tensor: Tensor, offset: int) -> Tensor:
    """The same values as a slice of something wider, as a projection's output is cut."""
    wide = torch.full((*tensor.shape[:-1], tensor.shape[-1] + 7), float("nan"))
    wide[..., offset : offset + tensor.shape[-1]] = tensor
    return wide[..., offset : offset + tensor.shape[-1]]


def test_strided_inputs_give_the_bits_of_contiguous_ones():
    inputs = scan_inputs(2, 37, 24, 5)
    cut = [strided(tensor, 3) if tensor.dim() == 3 else tensor for tensor in inputs]
    backwards = [tensor.transpose(-1, 0).contiguous().transpose(-1, 0) for tensor in inputs]
    expected = with_grads(ops.selective_scan, inputs)
    assert_same(with_grads(ops.selective_scan, cut), expected)
    assert_same(with_grads(ops.selective_scan, backwards), expected)
    x, weight, bias = conv_inputs(2, 37, 24, 4)
    assert_same(with_grads(ops.conv_silu, [strided(x, 2), weight, bias]), with_grads(ops.conv_silu, [x, weight, bias]))


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_bits_do_not_depend_on_threads(threads):
    def run():
        scan = with_grads(ops.selective_scan, scan_inputs(2, 70, 136, 16))
        attention = with_grads(ops.causal_attention, attention_inputs(2, 6, 3, 70, 14))
        loss = loss_and_grads(ops.linear_cross_entropy, *loss_inputs(1100, 24, 60, torch.float32))
        return scan + attention + loss + with_grads(ops.conv_silu, conv_inputs(2, 70, 136, 4))

    threads(1)
    expected = run()
    for count in (2, 3):
        threads(count)
        assert_same(run(), expected)


def test_a_sequence_does_not_see_the_others_in_its_batch():
    inputs = scan_inputs(3, 40, 24, 5)
    conv = conv_inputs(3, 40, 24, 4)
    together, conv_together = ops.selective_scan(*inputs), ops.conv_silu(*conv)
    for b in range(3):
        alone = [tensor[b : b + 1] if tensor.dim() == 3 else tensor for tensor in inputs]
        assert torch.equal(ops.selective_scan(*alone)[0], together[b])
        assert torch.equal(ops.conv_silu(conv[0][b : b + 1], *conv[1:])[0], conv_together[b])


@pytest.mark.parametrize("batch, time", [(0, 5), (2, 0)])
def test_nothing_to_scan_is_not_an_error(batch, time):
    out, *grads = with_grads(ops.selective_scan, scan_inputs(batch, time, 8, 3))
    assert out.shape == (batch, time, 8)
    assert all(not grad.any() for grad in grads)


def test_wrong_shapes_are_named():
    inputs = scan_inputs(2, 5, 8, 3)
    inputs[3] = inputs[3][:, :4]
    with pytest.raises(ValueError, match=r"selective_scan: B: expected shape \(2, 5, 3\), found \(2, 4, 3\)"):
        ops.selective_scan(*inputs)
    with pytest.raises(ValueError, match="9 taps"):
        ops.conv_silu(*conv_inputs(1, 5, 8, 9))
    with pytest.raises(ValueError, match="linear_cross_entropy: weight"):
        ops.linear_cross_entropy(torch.zeros(3, 4), torch.zeros(5, 6), torch.zeros(3, dtype=torch.long))


def test_border_refuses_arrays_that_a_kernel_must_not_touch():
    from suite import _core

    x, weight, bias = (tensor.numpy() for tensor in conv_inputs(1, 5, 8, 4))
    with pytest.raises(ValueError, match="out: shares memory with x"):
        _core.conv_silu(x, weight, bias, x, 1)
    with pytest.raises(ValueError, match="x: its last dimension must be contiguous"):
        _core.conv_silu(x[..., ::2], weight, bias, x.copy(), 1)
    with pytest.raises(ValueError, match="out: must be contiguous"):
        _core.conv_silu(x, weight, bias, x.copy().repeat(2, axis=1)[:, ::2], 1)
    frozen = x.copy()
    frozen.flags.writeable = False
    with pytest.raises(ValueError, match="out: must be writable"):
        _core.conv_silu(x, weight, bias, frozen, 1)
    with pytest.raises(ValueError, match="out: expected 40 values, found 32"):
        _core.conv_silu(x, weight, bias, x[:, :4].copy(), 1)


def test_operators_keep_torch_s_contract():
    inputs = tuple(tensor.requires_grad_() for tensor in scan_inputs(1, 33, 8, 2))
    torch.library.opcheck(torch.ops.suite.selective_scan.default, inputs)
    inputs = tuple(tensor.requires_grad_() for tensor in conv_inputs(1, 5, 8, 4))
    torch.library.opcheck(torch.ops.suite.conv_silu.default, inputs)


def loss_inputs(
    num_tokens: int, hidden_size: int, vocab_size: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(hidden_size)
    hidden = torch.randn(num_tokens, hidden_size, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab_size, hidden_size, generator=generator, dtype=torch.float64) / hidden_size**0.5
    targets = torch.randint(vocab_size, (num_tokens,), generator=generator)
    targets[::5] = -100
    return hidden.to(dtype), weight.to(dtype), targets


def loss_and_grads(op, hidden, weight, targets, *args) -> list[Tensor]:
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    loss = op(hidden, weight, targets, *args)
    return [loss.detach(), *torch.autograd.grad(loss / 3, (hidden, weight))]


# float64: rounding alone. float32: as TOLERANCE. bfloat16: its own 2**-8, once in the logits and once in the gradient.
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 4e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("shape", [(150, 12, 50), (130, 48, 300), (300, 160, 70), (1, 24, 9), (0, 24, 9)])
def test_linear_cross_entropy_and_its_gradients_are_the_reference(shape, dtype, tolerance):
    inputs = loss_inputs(*shape, dtype=dtype)
    found = loss_and_grads(ops.linear_cross_entropy, *inputs)
    expected = loss_and_grads(ops.linear_cross_entropy_reference, inputs[0].double(), inputs[1].double(), inputs[2])
    assert [tensor.dtype for tensor in found[1:]] == [dtype, dtype]
    assert_close(found, expected, tolerance)


def test_ignored_targets_count_for_nothing():
    hidden, weight, targets = loss_inputs(100, 24, 60, torch.float64)
    kept = targets != -100
    found = loss_and_grads(ops.linear_cross_entropy, hidden, weight, targets)
    expected = loss_and_grads(ops.linear_cross_entropy, hidden[kept], weight, targets[kept])
    assert_close([found[0], found[1][kept], found[2]], expected, 1e-12)
    assert not found[1][~kept].any()
    sevens = ops.linear_cross_entropy(hidden, weight, targets.where(kept, 7), 7)
    everything_else = kept & (targets != 7)
    torch.testing.assert_close(
        sevens, ops.linear_cross_entropy(hidden[everything_else], weight, targets[everything_else])
    )


def test_gradients_are_only_found_for_those_who_want_them():
    hidden, weight, targets = loss_inputs(100, 24, 60, torch.float32)
    weight.requires_grad_()
    expected = ops.linear_cross_entropy(hidden, weight, targets)
    assert torch.equal(torch.autograd.grad(expected, weight)[0], loss_and_grads(_triple, hidden, weight, targets)[2])
    with torch.no_grad():
        loss = ops.linear_cross_entropy(hidden, weight, targets)
    assert torch.equal(loss, expected.detach())
    assert loss.grad_fn is None


def _triple(*args) -> Tensor:
    return 3 * ops.linear_cross_entropy(*args)


def test_weight_tied_to_the_embedding_gets_both_gradients():
    _, weight, targets = loss_inputs(100, 24, 60, torch.float64)
    ids = targets.roll(1).clamp(min=0)
    grads = []
    for op in (ops.linear_cross_entropy, ops.linear_cross_entropy_reference):
        tied = weight.clone().requires_grad_()
        grads.append(torch.autograd.grad(op(tied[ids], tied, targets), tied)[0])
    assert_close(grads[:1], grads[1:], 1e-12)


def test_autocast_multiplies_in_its_dtype_and_sums_in_float32():
    hidden, weight, targets = loss_inputs(100, 24, 60, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_and_grads(ops.linear_cross_entropy, hidden, weight, targets)
    in_half = loss_and_grads(ops.linear_cross_entropy, hidden.bfloat16(), weight.bfloat16(), targets)
    assert torch.equal(found[0], in_half[0])
    assert [tensor.dtype for tensor in found] == [torch.float32] * 3


def attention_inputs(batch: int, heads: int, kv_heads: int, time: int, size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(time)
    return [torch.randn((batch, h, time, size), generator=generator) for h in (heads, kv_heads, kv_heads)]


@pytest.mark.parametrize("heads, kv_heads, time, size", [(2, 1, 7, 6), (6, 3, 75, 14), (1, 1, 1, 2), (2, 2, 33, 44)])
@pytest.mark.parametrize("documents", [False, True])
def test_attention_and_its_gradients_are_the_reference_in_float64(heads, kv_heads, time, size, documents):
    inputs = attention_inputs(2, heads, kv_heads, time, size)
    starts = torch.tensor([max(0, (t // 5) * 5 - 2) for t in range(time)]).expand(2, time) if documents else None
    expected = with_grads(lambda *x: ops.causal_attention_reference(*x, starts), [tensor.double() for tensor in inputs])
    assert_close(with_grads(lambda *x: ops.causal_attention(*x, starts), inputs), expected, TOLERANCE)


def test_a_document_has_the_bits_that_it_has_alone_wherever_it_lies():
    inputs = attention_inputs(1, 4, 2, 90, 14)
    starts = torch.tensor([[0] * 7 + [7] * 50 + [57] * 33])
    together = with_grads(lambda *x: ops.causal_attention(*x, starts), inputs)
    out_grad = torch.randn(1, 4, 90, 14)
    for begin, end in ((0, 7), (7, 57), (57, 90)):
        alone = [x[:, :, begin:end] for x in inputs]
        assert torch.equal(ops.causal_attention(*alone), together[0][:, :, begin:end])
        changed = [x.clone() for x in inputs]
        for x in changed:
            x[:, :, :begin], x[:, :, end:] = 1e4, -1e4
        leaves = [[x.requires_grad_() for x in y] for y in (inputs, changed)]
        outs = [ops.causal_attention(*x, starts) for x in leaves]
        grads = [torch.autograd.grad(out, x, out_grad) for out, x in zip(outs, leaves, strict=True)]
        assert torch.equal(outs[0][:, :, begin:end], outs[1][:, :, begin:end])
        assert_same(*([g[:, :, begin:end] for g in each] for each in grads))


def test_attention_of_half_precision_on_a_cpu_is_computed_in_float32():
    half = [x.bfloat16() for x in attention_inputs(1, 2, 1, 40, 6)]
    out = ops.causal_attention(*half)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, ops.causal_attention(*(x.float() for x in half)).bfloat16())


@pytest.mark.parametrize("rows, inputs, outputs", [((3, 40), 84, 50), ((70,), 36, 130), ((64,), 48, 48), ((5,), 12, 8)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_and_its_gradients_are_those_in_float64(rows, inputs, outputs, bias):
    generator = torch.Generator().manual_seed(inputs)
    shapes = [(*rows, inputs), (outputs, inputs), *[(outputs,)] * bias]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    expected = with_grads(torch.nn.functional.linear, [tensor.double() for tensor in tensors])
    assert_close(with_grads(ops.linear, tensors), expected, TOLERANCE)


def test_linear_is_torch_s_own_under_autocast():
    layer = ops.Linear(64, 64)
    x = torch.randn(64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))
        assert layer(x).dtype == torch.bfloat16


def test_a_target_that_no_vocabulary_has_is_named():
    hidden, weight, targets = loss_inputs(3, 12, 60, torch.float32)
    targets[1] = 60
    with pytest.raises(ValueError, match=r"targets\[1\]: expected 0 to 59 or -100, found 60"):
        ops.linear_cross_entropy(hidden, weight, targets)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(type="llama", hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4),
        MambaConfig(type="mamba", hidden_size=32, num_hidden_layers=2),
    ],
    ids=["llama", "mamba"],
)
def test_bfloat16_is_for_products_alone(config, monkeypatch):
    """Weights, gradients, the residual stream, norms, attention, the recurrence and the loss stay in float32."""
    model = build(config, 90)
    initialize(model, 0)
    seen = []
    for module in model.modules():
        if isinstance(module, RMSNorm):
            module.register_forward_hook(lambda _, inputs, out: seen.extend([inputs[0].dtype, out.dtype]))
    for op in ("_causal_attention", "_selective_scan"):
        home = sys.modules[f"suite.models.ops.{'attention' if 'attention' in op else 'scan'}"]
        real = getattr(home, op)
        monkeypatch.setattr(home, op, lambda *x, real=real: (seen.extend(y.dtype for y in x[:3]), real(*x))[1])
    ids = torch.randint(0, 90, (2, 40), generator=torch.Generator().manual_seed(0))
    nats = step.accumulate(model, ids, 78, 2, torch.bfloat16)
    assert set(seen) == {torch.float32}
    assert {x.dtype for p in model.parameters() for x in (p, p.grad)} == {torch.float32}
    exact = step.accumulate(model, ids, 78, 2, torch.float32)
    assert 0 < abs(float(nats / exact) - 1) < 2**-8  # products of 8 bits: a different number, and no more than that
