"""muP: initial spreads and learning rates per parameter, so that one learning rate suits every width.

Yang et al. 2022 (Tensor Programs V, table 3, for Adam), with every multiplier folded into initial weights and rates:
the forward pass has none, so a checkpoint stays a plain transformers folder. Folding is exact, because Adam's update
does not depend on a gradient's scale: weight A*w with spread s and rate r is weight w' with spread A*s and rate A*r.

m = hidden_size / base hidden_size; what it says of a parameter goes by which of its two sides grows with the width:

    side that grows     parameters                                       spread      rate
    neither, or out     embedding, norms, biases, conv1d, A_log, D       1           1
    in and out          projections between channels                     1/sqrt(m)   1/m
    in                  lm_head; x_proj's rows for B and C               1/m         1/m

At m = 1 every factor is 1. Scores are q.k/d and not q.k/sqrt(d): q_proj takes sqrt(base head_dim / head_dim). An output
layer that is tied to the embedding cannot have both rows of the table, so the final norm's gain takes its 1/m.

Mamba is no tensor program, so its row of the table is derived here, and the coordinate check looks at the outcome. The
state's size N is fixed, so a channel's scan, A_log and D have nothing that grows: rate 1. B and C are N sums over all
channels, read by every channel: were their weights of size 1/sqrt(width), as between channels, a change of all channels
in the weights' own direction would change them by sqrt(width). They are outputs, 1/m. dt goes through a bottleneck of
dt_rank, which grows with the width when it is "auto" and does not when it is a number; dt_proj and out_proj are drawn
by their fan-in already. (Vankadara et al. 2024, On Feature Learning in Structured State Space Models, treat the
limits of SSMs with random matrices; what stands here has only this argument and the check behind it.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from suite.base.config import validate
from suite.models.config import LlamaConfig, MambaConfig

Config = LlamaConfig | MambaConfig

FINAL_NORMS = ("model.norm.weight", "backbone.norm_f.weight")


@dataclass(frozen=True)
class Base:
    """The width at which muP is the standard parametrization; head_dim None: heads are as large as the model's own."""

    hidden_size: int
    head_dim: int | None = None


def _factors(name: str, config: Config, base: Base) -> tuple[float, float]:
    """The factors of a parameter's initial spread and of its rate; x_proj's are those of its rows for B and C."""
    m = config.hidden_size / base.hidden_size
    if name in FINAL_NORMS:
        return (1 / m, 1 / m) if config.tie_word_embeddings else (1.0, 1.0)
    match name.split(".")[-2:]:
        case ["lm_head" | "x_proj", "weight"]:
            return 1 / m, 1 / m
        case ["q_proj", "weight"] if isinstance(config, LlamaConfig):
            scores = math.sqrt((base.head_dim or config.head_dim) / config.head_dim)
            return scores / math.sqrt(m), scores / m
        case ["dt_proj", "weight"] if isinstance(config, MambaConfig):
            return 1.0, 1 / _rank_ratio(config, base)
        case ["out_proj", "weight"]:
            return 1.0, 1 / m
        case [projection, "weight"] if projection.endswith("_proj"):
            return 1 / math.sqrt(m), 1 / m
        case _:
            return 1.0, 1.0


def _rank_ratio(config: MambaConfig, base: Base) -> float:
    narrow = config.model_copy(update={"hidden_size": base.hidden_size})
    return config.dt_rank / narrow.dt_rank


def rate_factor(name: str, config: Config, base: Base) -> float:
    """What a parameter's learning rate is multiplied by."""
    return _factors(name, config, base)[1]


def rescale(name: str, drawn: Tensor, config: Config, base: Base) -> None:
    """Multiplies a parameter's standard initial value, in place."""
    spread, _ = _factors(name, config, base)
    if isinstance(config, MambaConfig) and name.endswith("x_proj.weight"):
        m = config.hidden_size / base.hidden_size
        drawn[: config.dt_rank] *= min(1.0, math.sqrt(_rank_ratio(config, base) / m)) / math.sqrt(m)
        drawn[config.dt_rank :] *= spread
    elif spread != 1.0:
        drawn *= spread


def widened(config: Config, hidden_size: int) -> Config:
    """The same model of another width: as many heads, all else in proportion. Raises ConfigError where it cannot be."""
    table = {**config.model_dump(), "hidden_size": hidden_size}
    if isinstance(config, LlamaConfig):
        table["intermediate_size"] = round(config.intermediate_size * hidden_size / config.hidden_size)
    return validate(type(config), table)
