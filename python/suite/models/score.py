"""Per-token nats of rows: what every evaluation is made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suite.models.build import Model

POSITIONS_PER_CHUNK = 2048  # bounds the logits in memory: 32 MB of float32 at a vocabulary of 4,096


@torch.no_grad()
def token_nats(model: Model, ids_BT: Tensor) -> Tensor:
    """-log p of every token after the first, given those before it: [B, T-1] float32."""
    hidden_MD = model.hidden(ids_BT[:, :-1]).flatten(0, 1)
    targets_M = ids_BT[:, 1:].flatten()
    nats = [
        F.cross_entropy(model.lm_head(hidden).float(), targets, reduction="none")
        for hidden, targets in zip(
            hidden_MD.split(POSITIONS_PER_CHUNK), targets_M.split(POSITIONS_PER_CHUNK), strict=True
        )
    ]
    return torch.cat(nats).view(ids_BT.shape[0], -1)
