"""The coordinate check of muP: do activations change by the same amount at every width?

The same model at several widths takes a few updates at one constant rate. Under muP the change of every layer's output,
mean |x_k - x_0| over coordinates, does not depend on the width; under the standard parametrization it grows with it
until a rate that suits a small model breaks a large one (Yang et al. 2022, appendix D.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite.base.errors import ConfigError
from suite.base.world import World
from suite.models import mup
from suite.models.build import Model, build, initialize
from suite.models.config import HfConfig, LlamaConfig
from suite.training import optim
from suite.training.config import BatchConfig, PrecisionConfig, RunConfig
from suite.training.targets import NOTHING
from suite.training.update import Update


@dataclass(frozen=True)
class Coordinates:
    """Of one width: mean |x| of each layer's output before the first update, and mean |x_k - x_0| after the last."""

    initial: dict[str, float]
    change: dict[str, float]


def measure(config: RunConfig, vocab_size: int, ids_BT: Tensor, steps: int, seed: int) -> Coordinates:
    """`steps` updates of a fresh model on the rows ids_BT, int64 with <bos> first, at the constant learning_rate."""
    model = build(config.model, vocab_size)
    initialize(model, seed, base=optim.base_of(config.optimizer))
    before = _activations(model, ids_BT)
    update = Update(model, optim.adamw(model, config.optimizer), config, World(), NOTHING)
    for _ in range(steps):
        update(ids_BT, ids_BT[:, 1:].numel(), config.optimizer.learning_rate)
    after = _activations(model, ids_BT)
    return Coordinates(
        {name: float(x.abs().mean()) for name, x in before.items()},
        {name: float((after[name] - x).abs().mean()) for name, x in before.items()},
    )


@torch.no_grad()
def _activations(model: Model, ids_BT: Tensor) -> dict[str, Tensor]:
    """What the embedding, every layer and the output layer give."""
    found: dict[str, Tensor] = {}
    names = {"lm_head": "logits"}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            names[name] = "embedding"
        elif name.split(".")[-2:-1] == ["layers"]:
            names[name] = f"layer {int(name.split('.')[-1]) + 1}"

    def keeps(said: str) -> Callable[..., None]:
        return lambda module, arguments, x_BTD: found.update({said: x_BTD.float()})

    hooks = [model.get_submodule(name).register_forward_hook(keeps(said)) for name, said in names.items()]
    model(ids_BT[:, :-1])
    for hook in hooks:
        hook.remove()
    return found


def check(config: RunConfig, parametrization: str, widths: list[int], ids_BT: Tensor, vocab_size: int, steps: int,
          seeds: int = 2) -> dict[int, Coordinates]:  # fmt: skip
    """For each width, means over seeds. muP's base is the config's, else the smallest width. Raises ConfigError for a
    width that the model cannot have."""
    base = config.optimizer.base_hidden_size or min(widths)
    if isinstance(config.model, HfConfig):
        raise ConfigError(f"{config.name}: model.type is hf; muP and its check are for llama and mamba")
    narrow = mup.widened(config.model, base)
    optimizer = config.optimizer.model_copy(
        update={
            "parametrization": parametrization,
            "base_hidden_size": base,
            "base_head_dim": narrow.head_dim if isinstance(narrow, LlamaConfig) else None,
        }
    )
    one = {
        "optimizer": optimizer,
        "batch": BatchConfig(sequences=len(ids_BT), micro_sequences=len(ids_BT)),
        "precision": PrecisionConfig(dtype="float32"),
    }
    found = {}
    for width in widths:
        wide = config.model_copy(update={**one, "model": mup.widened(config.model, width)})
        runs = [measure(wide, vocab_size, ids_BT, steps, seed) for seed in range(seeds)]
        found[width] = Coordinates(_mean([run.initial for run in runs]), _mean([run.change for run in runs]))
    return found


def _mean(tables: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(table[name] for table in tables) / len(tables) for name in tables[0]}


def slope(by_width: dict[int, float]) -> float:
    """The exponent of width in a quantity: 0 is flat, 0.5 grows as its root. Least squares over logarithms."""
    x = [math.log(width) for width in by_width]
    y = [math.log(value) for value in by_width.values()]
    centre = sum(x) / len(x)
    return sum((a - centre) * b for a, b in zip(x, y, strict=True)) / sum((a - centre) ** 2 for a in x)
