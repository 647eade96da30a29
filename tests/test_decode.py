"""A text read piece by piece is the text read at once."""

from __future__ import annotations

import copy

import pytest
import torch

from suite.models import ops, sampling
from suite.models.build import build, initialize
from suite.models.config import LlamaConfig, MambaConfig
from suite.models.decode import Decoder
from suite.models.sampling import sample
from test_ops import scan_inputs

VOCAB = 61
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
    "mamba of one tap": MambaConfig(type="mamba", hidden_size=12, num_hidden_layers=1, conv_kernel=1),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # these are too small to share
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=MODELS, ids=lambda name: name.replace(" ", "_"))
def model(request):
    made = build(MODELS[request.param], VOCAB)
    initialize(made, seed=3)
    with torch.no_grad():  # so large that what was forgotten, or stands at the wrong place, would be seen
        for name, parameter in made.named_parameters():
            if not name.endswith(("A_log", "dt_proj.bias")):
                generator = torch.Generator().manual_seed(parameter.numel())
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


# Sums of at most 80 terms in another order: 64 units in the last place of the largest value, as in test_models.py.
@pytest.mark.parametrize("dtype, unit", [(torch.float32, 2**-24), (torch.float64, 2**-53)])
def test_logits_of_pieces_are_those_of_the_whole(model, dtype, unit):
    model = copy.deepcopy(model).to(dtype)
    ids = torch.randint(VOCAB, (60,), generator=torch.Generator().manual_seed(1)).tolist()
    with torch.no_grad():
        whole_TV = model(torch.tensor([ids]))[0]
    decoder, end = Decoder(model, 60), 0
    for length in (7, 1, 1, 2, 1, 33, 1, 1, 13):
        logits_V = decoder.read(ids[end : end + length])
        end += length
        assert float((logits_V - whole_TV[end - 1]).abs().max()) <= 64 * unit * float(whole_TV.abs().max())
    assert end == len(ids)


@pytest.mark.parametrize("cuts", [(1,), (31, 32, 33), (5, 64)])
def test_the_scan_of_pieces_has_the_bits_of_the_whole(cuts):
    inputs = scan_inputs(2, 70, 136, 5)
    state_BND, outs = torch.zeros(2, 5, 136), []
    for start, end in zip((0, *cuts), (*cuts, 70), strict=True):
        piece = tuple(tensor[:, start:end] if tensor.dim() == 3 else tensor for tensor in inputs)
        before = state_BND.clone()
        out_BTD, after_BND = ops.advance_scan(state_BND, piece)
        assert torch.equal(state_BND, before)  # a text may be continued in two ways
        outs.append(out_BTD)
        state_BND = after_BND
    assert torch.equal(torch.cat(outs, 1), ops.selective_scan(*inputs))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampled_texts_are_those_of_reading_everything_anew(model, temperature, monkeypatch):
    """Within the context and beyond it, where a text moves under what was kept."""

    def text() -> list[int]:
        options = {"max_new_tokens": 30, "context": 20, "eos": VOCAB, "temperature": temperature, "seed": 4}
        return list(sample(model, [0, 5, 9], **options))

    found = text()

    class ReadsAnew:
        def __init__(self, model, context: int) -> None:
            self.model, self.ids = model, []

        def read(self, ids: list[int]) -> torch.Tensor:
            self.ids += ids
            return self.model(torch.tensor([self.ids]))[0, -1]

    monkeypatch.setattr(sampling, "Decoder", ReadsAnew)
    assert found == text() and len(found) == 30
