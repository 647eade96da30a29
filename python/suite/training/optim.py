"""AdamW, and its state by the names of parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from suite.models.build import Model
from suite.training.config import OptimizerConfig

NO_DECAY = ("A_log",)  # a matrix of logarithms: decaying it would pull every state's time constant to 1


def adamw(model: Model, config: OptimizerConfig) -> torch.optim.AdamW:
    """Matrices decay (embeddings too); norms, biases, Mamba's D and A_log do not, unless `decay_all`. Fused: one
    kernel for all."""
    decayed = {
        name
        for name, parameter in model.named_parameters()
        if config.decay_all or (parameter.ndim >= 2 and not name.endswith(NO_DECAY))
    }
    groups = [
        {"params": [p for name, p in model.named_parameters() if name in decayed], "weight_decay": config.weight_decay},
        {"params": [p for name, p in model.named_parameters() if name not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps, fused=True)


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
