"""A config becomes a module, on a device, with the weights that its seed decides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from suite.models.config import LlamaConfig, MambaConfig
from suite.models.llama import Llama
from suite.models.mamba import Mamba

Model = Llama | Mamba


def build(config: LlamaConfig | MambaConfig, vocab_size: int, device: torch.device | str = "cpu") -> Model:
    """The module with uninitialised weights. On "meta" it costs nothing."""
    with torch.device(device):
        return Llama(config, vocab_size) if isinstance(config, LlamaConfig) else Mamba(config, vocab_size)


def initialize(model: Model, seed: int, pad: int | None = None) -> None:
    """Draws every weight anew. A weight depends on the seed, its name and its shape alone, and is drawn on the CPU:
    the same on every device, and unchanged by parameters that are added elsewhere."""
    for name, parameter in model.named_parameters():
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
        drawn = torch.empty(parameter.shape, dtype=torch.float32)
        model.initialize(name, drawn, generator, pad)
        with torch.no_grad():
            parameter.copy_(drawn)


def num_parameters(model: nn.Module) -> Mapping[str, int]:
    """Counts: total, and without the embedding and output matrices."""
    embedding = {"model.embed_tokens.weight", "backbone.embeddings.weight", "lm_head.weight"}
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {
        "total": sum(counts.values()),
        "without_embeddings": sum(count for name, count in counts.items() if name not in embedding),
    }
