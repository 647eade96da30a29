"""A recorded step is the step: the same bits, each batch once, every number kept."""

import pytest
import torch

from suite.base.world import World
from suite.models.build import build, initialize
from suite.training import optim
from suite.training.config import RunConfig
from suite.training.graphs import WARM_UP, Captured
from suite.training.update import Update

CONFIG = {
    "name": "tiny",
    "threads": 1,
    "model": {"type": "mamba", "hidden_size": 8, "num_hidden_layers": 1},
    "data": {"tokens": "none"},
    "budget": {"steps": 8},
    "batch": {"sequences": 4, "micro_sequences": 2},
    "precision": {"dtype": "float32"},
}


def trained(device: str, captured: bool, steps: int = WARM_UP + 4, rates=None) -> tuple[dict, torch.Tensor]:
    """Weights and numbers after some steps; the batch's own tensor is overwritten after every step, as a loader may."""
    config = RunConfig(**{**CONFIG, "cuda_graphs": captured})
    model = build(config.model, 50)
    initialize(model, 0)
    model.to(device)
    optimizer = optim.adamw(model, config.optimizer)
    update = Update(model, optimizer, config, World(device=device), ignore=-100)
    if captured and device == "cpu":
        update.run = Captured(update._step, optimizer)
    ids_BT = torch.empty(4, 12, dtype=torch.int64, device=device)
    generator, numbers = torch.Generator().manual_seed(1), []
    for k in range(steps):
        ids_BT.copy_(torch.randint(50, (4, 12), generator=generator))
        numbers.append(update(ids_BT, 44 - k, 1e-3 * (k + 1), stop=k == 5))
        ids_BT.zero_()
    return {name: value.detach().cpu() for name, value in model.state_dict().items()}, torch.stack(numbers).cpu()


@pytest.fixture(
    params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]
)
def device(request):
    return request.param


def test_a_recorded_step_is_the_step(device):
    weights, numbers = trained(device, captured=True)
    expected_weights, expected_numbers = trained(device, captured=False)
    assert torch.equal(numbers, expected_numbers)  # rates, targets and the stop of every step among them
    assert numbers[:, 2].tolist() == [0, 0, 0, 0, 0, 1, 0]
    assert all(torch.equal(value, expected_weights[name]) for name, value in weights.items())


def test_a_batch_of_another_shape_is_a_step_all_the_same(device):
    step = Captured(lambda ids_BT: ids_BT.double().sum()[None], torch.optim.SGD([torch.zeros(1)]))
    for length in [4] * (WARM_UP + 2) + [3, 4]:
        assert step(torch.ones(2, length, device=device)).item() == 2 * length
