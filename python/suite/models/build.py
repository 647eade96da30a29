"""A config becomes a module, on a device, with the weights that its seed decides."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch

from suite.base.errors import ConfigError
from suite.models import mup
from suite.models.causal import Causal
from suite.models.config import HfConfig, LlamaConfig, MambaConfig
from suite.models.llama import Llama
from suite.models.mamba import Mamba

Model = Llama | Mamba | Causal


def build(config: LlamaConfig | MambaConfig | HfConfig, vocab_size: int, device: torch.device | str = "cpu") -> Model:
    """The module with uninitialised weights. On "meta" it costs nothing."""
    if isinstance(config, HfConfig):
        try:
            return Causal(config, vocab_size, device)
        except ValueError as error:
            raise ConfigError(f"model: {error}") from None
    with torch.device(device):
        return Llama(config, vocab_size) if isinstance(config, LlamaConfig) else Mamba(config, vocab_size)


def initialize(model: Model, seed: int, pad: int | None = None, base: mup.Base | None = None) -> None:
    """Draws every weight anew. A weight depends on the seed, its name and its shape alone, and is drawn on the CPU:
    the same on every device, and unchanged by parameters that are added elsewhere. transformers' classes draw their
    own. `base` turns muP on, for our own models."""
    if isinstance(model, Causal):
        assert base is None, "the config refuses it"
        model.draw(seed)
        return
    for name, parameter in model.named_parameters():
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
        drawn = torch.empty(parameter.shape, dtype=torch.float32)
        model.initialize(name, drawn, generator, pad)
        if base is not None:
            mup.rescale(name, drawn, model.config, base)
        with torch.no_grad():
            parameter.copy_(drawn)


def num_parameters(model: Model) -> Mapping[str, int]:
    """Counts: total, and without the embedding and output matrices."""
    embedding = {"model.embed_tokens.weight", "backbone.embeddings.weight", "lm_head.weight"}
    if isinstance(model, Causal):
        embedding = model.embeddings()
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return {
        "total": sum(counts.values()),
        "without_embeddings": sum(count for name, count in counts.items() if name not in embedding),
    }
