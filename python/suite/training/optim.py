"""AdamW, and its state by the names of parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from suite.models import mup
from suite.models.build import Model
from suite.models.causal import Causal
from suite.training.config import OptimizerConfig

NO_DECAY = ("A_log",)  # a matrix of logarithms: decaying it would pull every state's time constant to 1


def base_of(config: OptimizerConfig) -> mup.Base | None:
    """The base of muP, None for the standard parametrization."""
    if config.parametrization == "standard":
        return None
    assert config.base_hidden_size is not None
    return mup.Base(config.base_hidden_size, config.base_head_dim)


def _factor(model: Model, name: str, base: mup.Base | None) -> float:
    return 1.0 if base is None or isinstance(model, Causal) else mup.rate_factor(name, model.config, base)


def adamw(model: Model, config: OptimizerConfig) -> torch.optim.AdamW:
    """Matrices decay (embeddings too); norms, biases, Mamba's D and A_log do not, unless `decay_all`. Fused: one
    kernel for all.

    A group's rate is the schedule's times its `lr_scale` (training/update.py), which is 1 but under muP. What a step
    takes off a weight is rate * weight_decay of it, so the decay is divided by lr_scale: the same at every width.
    """
    base = base_of(config)
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        scale = _factor(model, name, base)
        decays = config.decay_all or (parameter.ndim >= 2 and not name.endswith(NO_DECAY))
        groups.setdefault((scale, config.weight_decay / scale if decays else 0.0), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": each, "lr_scale": scale, "weight_decay": decay} for (scale, decay), each in groups.items()],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )


def state_by_name(model: Model, optimizer: torch.optim.AdamW) -> dict[str, Tensor]:
    """Both moments and the count of updates of every parameter, as "name/exp_avg" and so on."""
    return {
        f"{name}/{key}": value.detach().to("cpu").contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def load_state(model: Model, optimizer: torch.optim.AdamW, state: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if f"{name}/step" not in state:
            continue  # no gradient reached it yet: a layer that was dropped in every step, say
        # fused AdamW wants the count beside the parameter too
        optimizer.state[parameter] = {
            key: state[f"{name}/{key}"].to(parameter.device) for key in ("step", "exp_avg", "exp_avg_sq")
        }
