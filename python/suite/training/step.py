"""One step's gradient: summed nats over global tokens, whatever the micro-batches and the ranks."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from suite.base.special import SpecialIds
from suite.base.world import World
from suite.models import ops
from suite.models.build import Model
from suite.models.causal import Causal
from suite.models.documents import isolated
from suite.training.targets import NOTHING


def read(ids_BT: Tensor, ignore: int = NOTHING) -> tuple[Tensor, Tensor]:
    """A batch's inputs [B, T-1] and targets [B, T-1]: a negative number is ~id, an id that is read and not counted."""
    inputs_BT = torch.where(ids_BT < 0, ~ids_BT, ids_BT)
    return inputs_BT[:, :-1], ids_BT[:, 1:].masked_fill(ids_BT[:, 1:] < 0, ignore)


def nats_of(model: Model, ids_BT: Tensor, ignore: int = NOTHING, isolate: SpecialIds | None = None) -> Tensor:
    """Summed nats of every token after <bos> but those that are `ignore`, a scalar that gradients flow through.

    With `isolate`, which says how documents begin and end, each of them is read as if it stood alone.
    """
    inputs_BT, targets_BT = read(ids_BT, ignore)
    if isinstance(model, Causal):
        assert isolate is None, "refused with the config"
        if not model.plain:
            return model.nats(inputs_BT, targets_BT, ignore)
        hidden_BTD = model.hidden(inputs_BT)
    else:
        starts_BT = None
        if isolate:
            inputs_BT, starts_BT = isolated(inputs_BT, isolate.bos, isolate.eos)
        hidden_BTD = model.hidden(inputs_BT, starts_BT)
    hidden_MD = hidden_BTD.flatten(0, 1)
    return ops.linear_cross_entropy(hidden_MD, model.lm_head.weight, targets_BT.flatten(), ignore)


def accumulate(
    model: Model,
    ids_BT: Tensor,
    global_targets: int | Tensor,
    micro_sequences: int,
    dtype: torch.dtype,
    ignore: int = NOTHING,
    isolate: SpecialIds | None = None,
) -> Tensor:
    """Adds this rank's gradient of the mean over `global_targets` tokens to .grad. Returns its summed nats, float64.

    Divided by the tokens of all ranks, not averaged over micro-batches or ranks: a mean of means is wrong where
    they are ragged.
    """
    device = ids_BT.device.type
    autocast = torch.autocast(device, dtype) if dtype != torch.float32 else nullcontext()
    total = torch.zeros((), dtype=torch.float64, device=ids_BT.device)
    for micro_BT in ids_BT.split(micro_sequences):
        with autocast:
            nats = nats_of(model, micro_BT, ignore, isolate)
        (nats / global_targets).backward()
        total += nats.detach()
    return total


def gradient_of(parameter: Tensor) -> Tensor:
    """A parameter's gradient; zeros for one that nothing flowed into."""
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)


def sum_over_ranks(model: Model, sums: Tensor, world: World) -> None:
    """Sums gradients, as one message, and `sums` over the ranks."""
    if world.size == 1:
        return
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    world.sum(flat)
    for grad, summed in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(summed.view_as(grad))
    world.sum(sums)
