"""What ranks run in tests; spawned processes import it by name."""

from __future__ import annotations

import torch
import torch.distributed

from suite.base.world import World
from suite.data.batches import batch_rows


def batches_of_this_rank(shape: tuple[int, int, int, int], world: World) -> list[list[int]]:
    """All ranks' rows of each step, gathered, in rank order."""
    steps, batch, num_rows, seed = shape
    gathered = []
    for step in range(steps):
        parts: list[list[int] | None] = [None] * world.size
        mine = batch_rows(step, world.rank, world.size, batch, num_rows, seed).tolist()
        torch.distributed.all_gather_object(parts, mine)
        gathered.append([row for part in parts for row in part or []])
    return gathered
