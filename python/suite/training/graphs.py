"""A training step as a CUDA graph: recorded once, then launched by one call.

A step of a small model is some hundred kernels of a few microseconds each, and the host needs longer to launch one
than the GPU to run it. A graph is launched as a whole. The first steps run as they are, on the run's own batches: they
compile kernels and make the optimizer's state. Recording runs nothing, so the steps are those of a run without graphs,
one by one and bit for bit.

What is recorded reads and writes fixed memory: the batch is copied into a buffer, other inputs must be tensors that
the caller overwrites (training/update.py), and what comes out is copied before the next step overwrites it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps before recording; torch's advice, and Triton's compiling is over after the first

Step = Callable[[Tensor], Tensor]


class Captured:
    """`captured(ids_BT)` does what `step(ids_BT)` does and returns a tensor equal to the one that it returns.

    A step that cannot be recorded runs as it is from then on, after one warning; so does a batch of another shape. On a
    CPU, which has no graphs, the recorded step is run again instead: the same rules, no gain.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer) -> None:
        self.step, self.optimizer = step, optimizer
        self.steps_before, self.refused = WARM_UP, False
        self._replay: Callable[[], None] | None = None
        self._ids_BT = self._numbers = torch.empty(0)

    def __call__(self, ids_BT: Tensor) -> Tensor:
        if self.refused:
            return self.step(ids_BT)
        if self.steps_before:
            self.steps_before -= 1
            return _aside(self.step, ids_BT)
        if self._replay is None:
            self._record(ids_BT)
        if self._replay is None or ids_BT.shape != self._ids_BT.shape:
            return self.step(ids_BT)
        self._ids_BT.copy_(ids_BT)
        self._replay()
        return self._numbers.clone()

    def _record(self, ids_BT: Tensor) -> None:
        self._ids_BT = ids_BT.clone()
        if not ids_BT.is_cuda:
            self._numbers = torch.empty(0, dtype=torch.float64)
            self._replay = self._run_again
            return
        for group in self.optimizer.param_groups:
            group["capturable"] = True  # torch refuses to record an optimizer without; a fused one is the same kernel
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: the thread that fetches batches may allocate page-locked memory meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self._numbers = self.step(self._ids_BT)
        except RuntimeError as error:
            self.refused = True
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            warnings.warn(f"this step cannot be a CUDA graph and runs without: {reason}", stacklevel=2)
            return
        self._replay = graph.replay

    def _run_again(self) -> None:
        self._numbers = self.step(self._ids_BT)


def _aside(step: Step, ids_BT: Tensor) -> Tensor:
    """Runs a step on a stream of its own, as torch asks of the steps before a recording."""
    if not ids_BT.is_cuda:
        return step(ids_BT)
    current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
    aside.wait_stream(current)
    with torch.cuda.stream(aside):
        numbers = step(ids_BT)
    current.wait_stream(aside)
    numbers.record_stream(current)
    return numbers.clone()
