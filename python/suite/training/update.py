"""One update of the weights: a batch in, three numbers out, and the host waits for none of them.

Whether an update may happen is decided where the numbers are: AdamW leaves the weights alone once the loss or the
gradient was not finite, whatever is asked of it afterwards. So a loop may read a step's numbers while the next one
runs, and the weights before the bad step are still there when it does.

What differs from step to step reaches the device as numbers in fixed places, so that a GPU can replay a step as one
recorded graph (training/graphs.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from suite.base.special import SpecialIds
from suite.base.world import World
from suite.models.build import Model
from suite.models.causal import Causal
from suite.training import step
from suite.training.config import RunConfig
from suite.training.graphs import Captured
from suite.training.tree import Tree, shape_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Update:
    """`update(ids_BT, global_targets, rate, stop)` for the batches of one run, in turn."""

    def __init__(
        self,
        model: Model,
        optimizer: torch.optim.AdamW,
        config: RunConfig,
        world: World,
        ignore: int,
        isolate: SpecialIds | None = None,
    ) -> None:
        assert config.batch.micro_sequences is not None, "the config must be settled"
        self.model, self.optimizer, self.world, self.ignore = model, optimizer, world, ignore
        self.isolate = isolate
        self.micro_sequences = config.batch.micro_sequences
        self.dtype = DTYPES[config.precision.dtype]
        self.grad_clip = config.optimizer.grad_clip or math.inf
        self.in_tree = config.precision.reproducible == "across-workers"
        self.slices = config.batch.sequences // self.micro_sequences
        self.halted = torch.zeros((), dtype=torch.bool, device=world.device)
        self.global_targets = torch.ones((), device=world.device)
        self.stop = torch.zeros((), dtype=torch.float64, device=world.device)
        self.on_gpu = world.device.startswith("cuda")
        # With several ranks a step waits for the others; a graph of that has not been tried.
        captures = self.on_gpu and config.cuda_graphs and world.size == 1
        self.run = Captured(self._step, optimizer) if captures else self._step

    def __call__(self, ids_BT: Tensor, global_targets: int, rate: float, stop: bool = False) -> Tensor:
        """Takes one optimizer step on this rank's part of a batch.

        Returns float64 [3], the same on every rank: summed nats of the whole batch, the gradient's norm before
        clipping, and how many ranks said `stop`.
        """
        for group in self.optimizer.param_groups:
            self._set_rate(group, rate * group.get("lr_scale", 1.0))
        self.global_targets.fill_(global_targets)  # by a kernel's argument: a copy would make the host wait
        self.stop.fill_(float(stop))
        return self.run(ids_BT)

    def _set_rate(self, group: dict, rate: float) -> None:
        if not self.on_gpu:
            group["lr"] = rate
        elif isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = torch.full((), rate, dtype=torch.float32, device=self.halted.device)

    def _step(self, ids_BT: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        nats, stops = self._in_tree(ids_BT) if self.in_tree else self._in_turn(ids_BT)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        self.halted |= ~(nats.isfinite() & norm.isfinite())
        self.optimizer.found_inf = self.halted.float()  # pyright: ignore[reportAttributeAccessIssue]
        self.optimizer.step()
        return torch.stack([nats, norm.detach().double(), stops])

    def _accumulate(self, ids_BT: Tensor) -> Tensor:
        return step.accumulate(
            self.model, ids_BT, self.global_targets, self.micro_sequences, self.dtype, self.ignore, self.isolate
        )

    def _in_turn(self, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Micro-batches one after another, ranks by whatever order their library has."""
        nats = self._accumulate(ids_BT)
        sums = torch.stack([nats, self.stop])
        step.sum_over_ranks(self.model, sums, self.world)
        return sums[0], sums[1]

    def _in_tree(self, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of micro-batches summed as a tree over the whole batch: the same bits on 1, 2, 4 ... ranks."""
        run_of, _ = shape_of(self.slices)
        mine, first = self.slices // self.world.size, self.world.rank * (self.slices // self.world.size)
        tree = Tree()
        nats_of_slices = torch.zeros(self.slices + 1, dtype=torch.float64, device=ids_BT.device)
        seed, draws = torch.initial_seed(), isinstance(self.model, Causal)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        micro_batches = ids_BT.split(self.micro_sequences)
        for leaf in range(0, mine, run_of):
            for i in range(leaf, leaf + run_of):
                if draws:  # a slice's dropout is its own, whichever rank has it
                    torch.manual_seed((seed + first + i) % 2**63)
                nats_of_slices[first + i] = self._accumulate(micro_batches[i])
            tree.add(torch.cat([step.gradient_of(parameter).flatten() for parameter in parameters]))
            self.optimizer.zero_grad(set_to_none=True)
        total = tree.total()
        self.world.sum_in_tree(total)
        nats_of_slices[-1] = self.stop
        self.world.sum(nats_of_slices)  # every place is one rank's and 0 on the others: adding rounds nothing
        for parameter, part in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)
        return nats_of_slices[:-1].sum(), nats_of_slices[-1]
