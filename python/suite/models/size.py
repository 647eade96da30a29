"""How many parameters a shape has, from its config alone: no torch, so that thousands of shapes take a moment.

models/build.py counts a real module's; tests/test_plan.py holds both to be equal.
"""

from __future__ import annotations

from collections.abc import Mapping

from suite.models.config import LlamaConfig, MambaConfig


def matrices_of_layer(config: LlamaConfig | MambaConfig) -> int:
    """Parameters of one layer in matrices that every token is multiplied by: 2 FLOPs of a forward pass each."""
    hidden, inner = config.hidden_size, config.intermediate_size
    if isinstance(config, LlamaConfig):
        key_value = config.num_kv_heads * config.head_dim
        return 2 * hidden * hidden + 2 * hidden * key_value + 3 * hidden * inner
    return inner * (3 * hidden + 2 * config.dt_rank + 2 * config.state_size)


def _others_of_layer(config: LlamaConfig | MambaConfig) -> int:
    """Norms; Mamba's convolution, A_log, D and biases."""
    if isinstance(config, LlamaConfig):
        return 2 * config.hidden_size
    inner = config.intermediate_size
    biases = inner * (1 + config.use_conv_bias) + config.use_bias * (2 * inner + config.hidden_size)
    return config.hidden_size + inner * (config.conv_kernel + config.state_size + 1) + biases


def num_parameters(config: LlamaConfig | MambaConfig, vocab_size: int) -> Mapping[str, int]:
    """Counts: total, and without the embedding and output matrices. A tied matrix counts once."""
    layers = config.num_hidden_layers * (matrices_of_layer(config) + _others_of_layer(config))
    without = layers + config.hidden_size
    embeddings = (1 if config.tie_word_embeddings else 2) * vocab_size * config.hidden_size
    return {"total": without + embeddings, "without_embeddings": without}
