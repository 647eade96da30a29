"""A document inside a row is the document alone: what it holds, its logits, its loss and its gradients."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from conftest import TINY
from suite.base.errors import ConfigError, TokensError
from suite.base.special import SpecialIds
from suite.data.pack import one_pass
from suite.executor.local import map_in_order
from suite.models import ops
from suite.models.build import build, initialize
from suite.models.config import LlamaConfig, MambaConfig
from suite.models.documents import isolated
from suite.models.score import token_nats
from suite.training import prepare
from suite.training.config import load_run
from suite.training.step import nats_of

BOS, EOS, VOCAB = 0, 1, 61
SPECIAL = SpecialIds(BOS, EOS, 2)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # these are too small to share
    yield
    torch.set_num_threads(before)


def isolated_as_one_reads_it(row: list[int]) -> tuple[list[int], list[int]]:
    read, starts, start = [], [], 0
    for t, token in enumerate(row):
        if token == EOS:
            start = t
        read.append(BOS if token == EOS else token)
        starts.append(start)
    return read, starts


@given(st.integers(0, 12).flatmap(lambda time: st.lists(st.lists(st.integers(0, 3), min_size=time, max_size=time))))
def test_what_is_read_and_from_where(rows):
    ids_BT = torch.tensor(rows, dtype=torch.int64).reshape(len(rows), -1 if rows and rows[0] else 0)
    read_BT, starts_BT = isolated(ids_BT, BOS, EOS)
    expected = [isolated_as_one_reads_it(row) for row in rows]
    assert list(zip(read_BT.tolist(), starts_BT.tolist(), strict=True)) == expected


def rows_of_documents(lengths: list[list[int]]) -> Tensor:
    """Rows as the stream has them: <bos>, documents with their <eos>; the last of a row goes on beyond it."""
    generator = torch.Generator().manual_seed(5)
    rows = []
    for row in lengths:
        parts = [torch.tensor([BOS])]
        for length in row:
            parts += [torch.randint(3, VOCAB, (length,), generator=generator), torch.tensor([EOS])]
        rows.append(torch.cat(parts)[:-1])
    return torch.stack(rows)


# Rows of 80: chunks of 32 steps that no document, one, several and a whole lot of them begin in; empty documents too;
# one that begins where a chunk does, one a step before.
ROWS = rows_of_documents([[5, 0, 0, 2, 59, 8], [31, 30, 16], [79], [30, 1, 1, 1, 0, 41]])


def documents_of(row: Tensor) -> list[Tensor]:
    """Each document as an evaluation reads it: from <bos>, with its <eos> if it has one there."""
    ends = [0, *(row == EOS).nonzero().flatten().tolist()]
    pieces = [row[a + 1 : b + 1] for a, b in zip(ends, [*ends[1:], len(row)], strict=True)]
    return [torch.cat([torch.tensor([BOS]), piece]) for piece in pieces if len(piece)]


MODELS = {
    "llama": LlamaConfig(
        type="llama",
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    ),
    "mamba": MambaConfig(type="mamba", hidden_size=20, num_hidden_layers=2, state_size=5),
}


@pytest.fixture(params=MODELS)
def model(request):
    made = build(MODELS[request.param], VOCAB)
    initialize(made, seed=3)
    with torch.no_grad():  # so large that what leaked from one document into another would be seen
        for name, parameter in made.named_parameters():
            if not name.endswith(("A_log", "dt_proj.bias")):
                generator = torch.Generator().manual_seed(parameter.numel())
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


def logits_of(model, ids_BT: Tensor, way: str) -> Tensor:
    if way == "float64":
        model = copy.deepcopy(model).double()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16) if way == "autocast" else nullcontext():
        return model(*isolated(ids_BT, BOS, EOS))


@pytest.mark.parametrize("way", ["float32", "autocast", "float64"])
def test_changing_one_document_never_changes_another(model, way):
    before = logits_of(model, ROWS, way)
    _, starts_BT = isolated(ROWS, BOS, EOS)
    for row, start in [(0, 0), (0, 11), (1, 32), (3, 31), (3, 38)]:
        mine = (starts_BT[row] == start) & (ROWS[row] != BOS) & (ROWS[row] != EOS)
        other = ROWS.clone()
        other[row, mine] = (other[row, mine] - 3 + 7) % (VOCAB - 3) + 3
        changed = (logits_of(model, other, way) != before).any(-1)
        assert torch.equal(changed[row], mine)  # exactly: 0 elsewhere
        changed[row] = False
        assert not changed.any()


# Sums of at most 80 terms in another order: 64 units in the last place of the largest value, as in test_models.py.
@pytest.mark.parametrize("way, unit", [("float32", 2**-24), ("float64", 2**-53)])
def test_a_document_inside_a_row_is_the_document_alone(model, way, unit):
    logits_BTV = logits_of(model, ROWS, way)
    for row, logits_TV in zip(ROWS, logits_BTV, strict=True):
        alone = [
            logits_of(model, document[None, : int((document != EOS).sum())], way) for document in documents_of(row)
        ]
        together = torch.cat(alone, 1)[0]
        inside = logits_TV[: len(together)]
        assert len(inside) == len(together)
        assert float((inside - together).abs().max()) <= 64 * unit * float(together.abs().max())


def test_loss_and_gradients_are_those_of_the_documents_alone_in_float64(model):
    """No target is lost, none is predicted across documents; the reference knows nothing of rows."""
    reference = copy.deepcopy(model).double()
    alone = [document[None] for row in ROWS for document in documents_of(row)]
    assert sum(document.shape[1] - 1 for document in alone) == ROWS[:, 1:].numel()
    expected = torch.stack([nats_of(reference, document) for document in alone]).sum()
    found = nats_of(model, ROWS, isolate=SPECIAL)
    assert abs(found.item() / expected.item() - 1) < 1e-6  # a float32 is right to 6e-8, a token's nats to some of that
    evaluated = sum(float(token_nats(model, document).double().sum()) for document in alone)
    assert abs(found.item() / evaluated - 1) < 1e-6
    expected.backward()
    found.backward()
    for (name, parameter), same in zip(model.named_parameters(), reference.parameters(), strict=True):
        largest = float(same.grad.abs().max())  # 1000 units in the last place: see test_models.py
        assert float((parameter.grad - same.grad).abs().max()) <= 1000 * 2**-24 * largest, name


def test_layers_that_are_computed_again_isolate_too(model):
    def grads() -> list[Tensor]:
        return list(torch.autograd.grad(nats_of(model, ROWS, isolate=SPECIAL), list(model.parameters())))

    expected = grads()
    model.use_gradient_checkpointing()
    assert all(torch.equal(f, e) for f, e in zip(grads(), expected, strict=True))


def test_isolation_matters(model):
    assert nats_of(model, ROWS).item() != nats_of(model, ROWS, isolate=SPECIAL).item()


def op_inputs(op: str, time: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(time)
    batch, channels, states, taps = len(ROWS), 70, 5, 4

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if op == "conv_silu":
        return [random(batch, time, channels), random(channels, taps), random(channels)]
    wide, narrow = (batch, time, channels), (batch, time, states)
    A = -torch.rand((channels, states), generator=generator) * states
    return [random(*wide), random(*wide), A, random(*narrow), random(*narrow), random(channels), random(*wide),
            random(channels) - 2]  # fmt: skip


def with_grads(op, inputs: list[Tensor], out_grad: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    out = op(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, out_grad)]


@pytest.mark.parametrize("op", ["conv_silu", "selective_scan"])
def test_kernels_within_documents_are_the_references_in_float64(op):
    _, starts_BT = isolated(ROWS, BOS, EOS)
    inputs = op_inputs(op, ROWS.shape[1])
    out_grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    doubles = [tensor.double() for tensor in inputs]
    reference = getattr(ops, f"{op}_reference")
    expected = with_grads(lambda *x: reference(*x, starts_BT), doubles, out_grad.double())
    found = with_grads(lambda *x: getattr(ops, op)(*x, starts_BT), inputs, out_grad)
    for f, e in zip(found, expected, strict=True):
        assert float((f.double() - e).abs().max()) <= 2e-6 * float(e.abs().max())  # test_ops.py's TOLERANCE


@pytest.mark.parametrize("op", ["conv_silu", "selective_scan"])
def test_kernels_give_a_document_its_own_bits_wherever_it_lies(op):
    """Output and the gradient of everything that has a time, bit for bit; weights' gradients are sums over all."""
    _, starts_BT = isolated(ROWS, BOS, EOS)
    inputs = op_inputs(op, ROWS.shape[1])
    out_grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    timed = [0, *(1 + i for i, tensor in enumerate(inputs) if tensor.dim() == 3)]
    inside = with_grads(lambda *x: getattr(ops, op)(*x, starts_BT), inputs, out_grad)
    for b in range(len(ROWS)):
        for start in starts_BT[b].unique().tolist():
            at = starts_BT[b] == start
            cut = [tensor[b : b + 1, at] if tensor.dim() == 3 else tensor for tensor in inputs]
            alone = with_grads(getattr(ops, op), cut, out_grad[b : b + 1, at])
            assert all(torch.equal(inside[i][b, at], alone[i][0]) for i in timed)


@pytest.mark.parametrize("op", ["conv_silu", "selective_scan"])
def test_a_row_of_one_document_has_the_bits_of_before(op):
    inputs = op_inputs(op, 40)
    out_grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1))
    starts_BT = torch.zeros(len(ROWS), 40, dtype=torch.int64)
    expected = with_grads(getattr(ops, op), inputs, out_grad)
    found = with_grads(lambda *x: getattr(ops, op)(*x, starts_BT), inputs, out_grad)
    assert all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize("op", ["conv_silu", "selective_scan"])
def test_operators_within_documents_keep_torch_s_contract(op):
    starts_BT = torch.tensor([[0, 0, 2, 2, 4]]).expand(len(ROWS), 5).contiguous()
    inputs = tuple(tensor.requires_grad_() for tensor in op_inputs(op, 5))
    torch.library.opcheck(getattr(torch.ops.suite, op).default, (*inputs, starts_BT))


@pytest.mark.parametrize(
    "starts, why",
    [
        ([[0, 0, 2]], r"starts: expected shape \(4, 3\), found \(1, 3\)"),
        ([[0, 0, 1]] * 4, "starts: row 0, position 2: .* found 1"),
        ([[-1, -1, 2]] * 4, "starts: row 0, position 0: .* found -1"),
        ([[0, 0, 0]] * 3 + [[0, 5, 5]], "starts: row 3, position 1: .* found 5"),
    ],
)
@pytest.mark.parametrize("op", ["conv_silu", "selective_scan"])
def test_starts_that_are_none_are_refused(op, starts, why):
    with pytest.raises(ValueError, match=why):
        getattr(ops, op)(*op_inputs(op, 3), torch.tensor(starts))


def test_rows_that_are_documents_are_not_isolated(tiny_root, tmp_path):
    """Said at once where the config makes such rows, and by the tokens where they are there already."""
    arguments = [f"root={tmp_path}", "name=r", "data.tokens=t", "data.source=stories:60"]
    with pytest.raises(ConfigError, match="isolate: rows of layout 'documents' hold one each"):
        load_run([tiny_root / "mamba.toml"], [*arguments, "data.layout=documents", "data.isolate=true"])
    config = load_run([tiny_root / "mamba.toml"], [*arguments, "data.layout=documents"])
    prepare.ensure(config, one_pass(map_in_order(1)), lambda line: None)
    isolated_run = load_run([tiny_root / "mamba.toml"], [*arguments, "data.isolate=true"])
    with pytest.raises(TokensError, match=r"a document in each row, none to isolate; leave out data\.isolate"):
        prepare.opened(isolated_run)


def test_a_class_of_transformers_is_not_isolated(tiny_root):
    hf = '"hf", model_class = "GPT2LMHeadModel", n_embd = 8, n_layer = 1, n_head = 2'
    (tiny_root / "gpt.toml").write_text(f"name = 'g'\nmodel = {{ type = {hf} }}\n{TINY}")
    with pytest.raises(ConfigError, match=r"data\.isolate: transformers' classes see the whole row"):
        load_run([tiny_root / "gpt.toml"], [f"root={tiny_root}", "data.isolate=true"])
