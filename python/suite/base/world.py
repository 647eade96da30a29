"""Who this process is among the workers of a run, and how they sum.

A world of one does nothing. A larger one is a torch.distributed group, made by whoever started the processes
(executor/), gloo on CPUs and NCCL on GPUs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from suite.base.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class World:
    """`stop` holds the signals that this rank was asked to end with, `leaving` what is known of a machine that will go:
    whoever started the ranks may append to both while they work."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    stop: list[int] = field(default_factory=list, compare=False)
    leaving: list[str] = field(default_factory=list, compare=False)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> None:
        """Replaces the tensor by its sum over the ranks."""
        if self.size > 1:
            import torch.distributed

            torch.distributed.all_reduce(tensor)

    def sum_in_tree(self, tensor: torch.Tensor) -> None:
        """Replaces the tensor by its sum over the ranks, neighbours first, then pairs of them, and so on.

        Every rank ends with the same bits: float addition is commutative. The number of ranks is a power of two.
        """
        import torch
        import torch.distributed as dist

        assert self.size & (self.size - 1) == 0
        distance = 1
        while distance < self.size:
            partner, theirs = self.rank ^ distance, torch.empty_like(tensor)
            for work in dist.batch_isend_irecv(
                [dist.P2POp(dist.isend, tensor, partner), dist.P2POp(dist.irecv, theirs, partner)]
            ):
                work.wait()
            tensor += theirs
            distance *= 2

    def barrier(self) -> None:
        if self.size > 1:
            import torch.distributed

            torch.distributed.barrier()


def choose_device() -> str:
    """cuda when this machine has a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> None:
    """Raises ConfigError for a device that this process does not have."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device is cuda, and torch finds no GPU here: device=cpu trains without one")


def use_threads(threads: int) -> None:
    """Fixes the number of threads: bits may depend on it, so it is part of a run and never inherited."""
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)
