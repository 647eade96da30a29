"""What ranks run in tests; spawned processes import it by name."""

from __future__ import annotations

import torch
import torch.distributed

from suite.base.world import World
from suite.data.batches import batch_rows


def batches_of_this_rank(shape: tuple[int, int, int, int], world: World, on_record) -> list[list[int]]:
    """All ranks' rows of each step, gathered, in rank order."""
    steps, batch, num_rows, seed = shape
    gathered = []
    for step in range(steps):
        parts: list[list[int] | None] = [None] * world.size
        mine = batch_rows(step, world.rank, world.size, batch, num_rows, seed).tolist()
        torch.distributed.all_gather_object(parts, mine)
        gathered.append([row for part in parts for row in part or []])
    return gathered


def train_but_die_once(config, world, on_record):
    """Trains, but the last rank kills itself in a step, the first time."""
    import os
    import signal
    import threading
    import time

    from suite.base.tracker import METRICS, read_records
    from suite.training.loop import train

    mark = config.folder / "died"

    def die() -> None:
        while len(read_records(config.folder / METRICS)) < 8:
            time.sleep(0.005)
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    if world.rank == world.size - 1 and not mark.exists():
        threading.Thread(target=die, daemon=True).start()
    return train(config, world, on_record)


def die(config, world, on_record):
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
