"""Text from a model: one token at a time, from the softmax at a temperature, cut to the likeliest tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from suite.models.build import Model
from suite.models.decode import Decoder
from suite.models.llama import Llama
from suite.models.mamba import Mamba

MIN_TEMPERATURE = 1e-4  # below, the likeliest token has all the probability that float32 can tell apart


@torch.no_grad()
def sample(
    model: Model,
    prompt: list[int],
    *,
    max_new_tokens: int,
    context: int,
    eos: int,
    temperature: float = 0.8,
    top_k: int | None = 40,
    top_p: float | None = None,
    seed: int = 0,
) -> Iterator[int]:
    """Yields token ids until <eos> or `max_new_tokens`. Temperature 0 takes the likeliest token.

    `prompt` begins with <bos>. The model sees <bos> and the last `context` - 1 tokens, the length it was trained on.
    Of the `top_k` likeliest tokens, those stay that have `top_p` of the probability together: the fewest that do.
    The same seed gives the same text on the same machine.
    """
    decoder = None
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt)
    for _ in range(max_new_tokens):
        if len(ids) > context or not isinstance(model, Llama | Mamba):
            logits_V = _read_anew(model, ids if len(ids) <= context else [ids[0], *ids[len(ids) - context + 1 :]])
        else:
            unread = ids[-1:] if decoder else ids
            decoder = decoder or Decoder(model, context)
            logits_V = decoder.read(unread).float().cpu()
        if temperature < MIN_TEMPERATURE:
            token = int(logits_V.argmax())
        else:
            logits_V = logits_V / temperature
            if top_k is not None and top_k < len(logits_V):
                logits_V[logits_V < logits_V.topk(top_k).values[-1]] = -torch.inf
            p_V = logits_V.softmax(-1)
            if top_p is not None and top_p < 1:
                sorted_V, order_V = p_V.sort(descending=True, stable=True)
                p_V[order_V[sorted_V.cumsum(0) - sorted_V >= top_p]] = 0  # what comes before has enough
            token = int(torch.multinomial(p_V, 1, generator=generator))  # which divides by the sum
        if token == eos:
            return
        ids.append(token)
        yield token


def _read_anew(model: Model, ids: list[int]) -> torch.Tensor:
    """Logits of what follows, [V], from the whole text. Beyond the context every token moves: nothing kept holds."""
    hidden_BTD = model.hidden(torch.tensor([ids], device=next(model.parameters()).device))
    return model.lm_head(hidden_BTD[0, -1]).float().cpu()
