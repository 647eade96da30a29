"""The arithmetic of a model: FLOPs of one pass over a row, exact integers from its config alone.

A multiplication and an addition are one each. Counted is what a model must do, however it is computed: its matrix
products, attention to the positions that are seen, Mamba's convolution and scan. Not counted, as is the custom: norms,
activations, RoPE, the softmax, the embedding's look-up; and what is computed again (a kernel's backward pass, gradient
checkpointing), so that MFU rewards no detour.

- Matrices: 2 for each parameter and token (Kaplan et al. 2020, 2.1); the output layer is one of them.
- Attention: 2 products of 2 H E for every pair of positions that see each other, T (T + 1) / 2 in a row of T: the
  causal half of what Chowdhery et al. 2022 (PaLM, appendix B) and torch's own counter take. Documents that are apart
  in a row see less; that is not taken off.
- Scan (Gu and Dao 2023, eq. 2): for every channel and state exp(dt A), its argument, times h, dt u times B, their sum,
  C times h and its sum, 7 in all; for every channel dt u, D u and its sum, and the gate, 4. (The 9 B L D N of the
  authors' own count takes in what a parallel scan adds.)
- Backward: twice forward, because each product has two gradients (Kaplan et al. 2020, 2.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from suite.models.config import LlamaConfig, MambaConfig, ModelConfig
from suite.models.size import matrices_of_layer

TRAINING = 3  # forward passes that a forward and a backward are worth


@dataclass(frozen=True)
class Flops:
    """Of a forward pass over one row of `positions`."""

    positions: int
    matrices: int
    attention: int = 0
    convolution: int = 0
    scan: int = 0

    @property
    def forward(self) -> int:
        return self.matrices + self.attention + self.convolution + self.scan

    @property
    def training_per_token(self) -> float:
        """Of a forward and a backward pass, for each token that is predicted."""
        return TRAINING * self.forward / self.positions


def of_row(config: ModelConfig, vocab_size: int, positions: int) -> Flops:
    """Of a row of `positions`, which in training are seq_len - 1. A type without formulas of its own is counted by
    `of_forward`, on a module without weights."""
    if isinstance(config, LlamaConfig):
        layers = config.num_hidden_layers
        pairs = positions * (positions + 1) // 2
        return Flops(positions, _matrices(config, vocab_size, positions), layers * 2 * 2 * config.hidden_size * pairs)
    if isinstance(config, MambaConfig):
        channels = config.num_hidden_layers * positions * config.intermediate_size
        return Flops(
            positions,
            _matrices(config, vocab_size, positions),
            convolution=2 * config.conv_kernel * channels,
            scan=(7 * config.state_size + 4) * channels,
        )
    from suite.models.build import build, num_parameters

    model = build(config, vocab_size, "meta")
    try:
        return of_forward(model, positions)
    except Exception:  # other people's code, on tensors without numbers: then the rule of 2 N, without attention
        return Flops(positions, 2 * positions * num_parameters(model)["total"])


def _matrices(config: LlamaConfig | MambaConfig, vocab_size: int, positions: int) -> int:
    of_layers = config.num_hidden_layers * matrices_of_layer(config)
    return 2 * positions * (of_layers + vocab_size * config.hidden_size)


def of_forward(logits_of: Callable[[Any], object], positions: int) -> Flops:
    """Of any module on "meta", by torch's counter: its products of two activations are taken for causal attention, of
    which half is counted. What a module does without products, such as a scan, is not counted."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    # Fake tensors, which transformers knows not to ask for their numbers.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), FlopCounterMode(display=False) as counter:
        logits_of(torch.zeros(1, positions, dtype=torch.int64, device="meta"))
    counts = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    convolution = sum(count for op, count in counts.items() if "conv" in op)
    attention = sum(count for op, count in counts.items() if "bmm" in op or "attention" in op)
    matrices = sum(counts.values()) - attention - convolution
    return Flops(positions, matrices, attention * (positions + 1) // (2 * positions), convolution)
