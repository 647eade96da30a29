"""Shapes of a wanted size: every sane one near it is counted, and the nearest and best proportioned are returned.

A deviation from the size and a departure from the usual proportions are weighed on one scale, per cent of the size: one
per cent for every halving or doubling from a width of 32 times the depth (delphi's and Pythia's suites lie between 12
and 128 times; loss hardly depends on it, Kaplan et al. 2020, figure 5) and from heads 16 to 64 wide; half of one for
every halving below four heads, and for a hidden size that is no multiple of 8, which kernels like; a tenth of the
departure from an intermediate size of 8/3 the hidden size (Touvron et al. 2023, 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from suite.base.errors import ConfigError
from suite.models.config import LlamaConfig, MambaConfig
from suite.models.size import num_parameters

USUAL_WIDTH_PER_LAYER = 32
FEWEST, MOST = 4, 256  # times the depth that a width may be
MAX_LAYERS = 128
FARTHEST = 0.1  # from the size, of all but the best shape


@dataclass(frozen=True)
class Shape:
    config: LlamaConfig | MambaConfig
    parameters: int
    parameters_without_embeddings: int
    deviation: float  # from the size that was asked for, as a part of it
    cost: float


def near(arch: str, params: int, vocab_size: int, tied: bool | None = None, top: int = 5) -> list[Shape]:
    """The best `top` shapes, each of another hidden size and depth. tied: None is the architecture's own default.

    Raises ConfigError when embeddings alone are more than the target, saying what would be possible.
    """
    best: dict[tuple[int, int], Shape] = {}
    for hidden in _widths(params, vocab_size):
        for layers in range(max(1, hidden // MOST), min(MAX_LAYERS, hidden // FEWEST) + 1):
            shapes = _llamas if arch == "llama" else _mambas
            added = {} if tied is None else {"tie_word_embeddings": tied}
            for config, oddity in shapes(hidden, layers, params, vocab_size, added):
                shape = _weighed(config, oddity, params, vocab_size)
                known = best.get((hidden, layers))
                if known is None or shape.cost < known.cost:
                    best[hidden, layers] = shape
    found = sorted(best.values(), key=lambda shape: (shape.cost, shape.config.hidden_size))[:top]
    if not found or abs(found[0].deviation) > 0.5:
        raise ConfigError(
            f"no sane {arch} of {params:,} parameters with a vocabulary of {vocab_size:,}"
            + (f"; the nearest has {found[0].parameters:,}" if found else "")
            + ": a smaller --vocab, or --tied, leaves more of them to the layers"
        )
    return found[:1] + [shape for shape in found[1:] if abs(shape.deviation) <= FARTHEST]


def _widths(params: int, vocab_size: int) -> Iterator[int]:
    """Even sizes, then coarser ones: steps of at most a thirtieth."""
    hidden = 4
    while hidden * vocab_size <= 1.5 * params:
        yield hidden
        hidden += 2 if hidden < 64 else 4 if hidden < 128 else 8 if hidden < 512 else 16 if hidden < 1024 else 64


def _mambas(hidden: int, layers: int, params: int, vocab_size: int, added: dict) -> Iterator[tuple[MambaConfig, float]]:
    yield MambaConfig(type="mamba", hidden_size=hidden, num_hidden_layers=layers, **added), 0.0


def _llamas(hidden: int, layers: int, params: int, vocab_size: int, added: dict) -> Iterator[tuple[LlamaConfig, float]]:
    """With every even head_dim, with as many key/value heads or half of them, and the intermediate size that comes
    nearest to the target within a quarter of 8/3 of the hidden size."""
    usual = 8 * hidden / 3
    for heads in _divisors(hidden):
        head_dim = hidden // heads
        if head_dim % 2 or heads > 128 or head_dim > 256:
            continue
        odd = 0.01 * max(0.0, math.log2(16 / head_dim), math.log2(head_dim / 64))
        odd += 0.005 * max(0.0, math.log2(4 / heads))
        for kv_heads in {heads, heads // 2} if heads % 2 == 0 else {heads}:
            shape = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, **added}
            least = LlamaConfig(type="llama", intermediate_size=1, num_key_value_heads=kv_heads, **shape)
            left = params - num_parameters(least, vocab_size)["total"]
            step = 8 if hidden >= 64 else 1
            exact = 1 + left / (3 * hidden * layers)
            inner = round(min(max(exact, 0.75 * usual), 1.25 * usual) / step) * step
            config = least.model_copy(update={"intermediate_size": max(inner, 1)})
            yield config, odd + 0.1 * abs(inner / usual - 1)


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def _weighed(config: LlamaConfig | MambaConfig, oddity: float, params: int, vocab_size: int) -> Shape:
    counts = num_parameters(config, vocab_size)
    deviation = counts["total"] / params - 1
    proportion = config.hidden_size / config.num_hidden_layers / USUAL_WIDTH_PER_LAYER
    cost = abs(deviation) + oddity + 0.01 * abs(math.log2(proportion)) + 0.005 * (config.hidden_size % 8 > 0)
    return Shape(config, counts["total"], counts["without_embeddings"], deviation, cost)
