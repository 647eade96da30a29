"""Texts that a model writes while it is trained: the same prompts, the same draws, at every place."""

from __future__ import annotations

from typing import Any

from suite.data.chat import Chat
from suite.data.shards import Tokens
from suite.data.tokenizer import Tokenizer
from suite.models.build import Model
from suite.models.sampling import sample
from suite.training.config import RunConfig


def texts(config: RunConfig, model: Model, tokens: Tokens, tokenizer: Tokenizer, at: int) -> list[dict[str, Any]]:
    """A record for each prompt and number, with what the weights of step `at` write. Leaves the model in training."""
    settings, special = config.samples, tokenizer.special
    first_seed = config.seed if settings.seed is None else settings.seed
    entry = tokens.split("train").chat
    chat = Chat(entry.template, tokenizer) if entry else None
    records: list[dict[str, Any]] = []
    model.eval()
    for prompt in settings.prompts:
        # In a conversation the prompt is what a user says, and the text is the answer.
        asked = chat.prompt([("user", prompt)]) if chat else [special.bos, *tokenizer.encode(prompt)]
        for number in range(settings.per_prompt):
            ids = sample(
                model,
                asked,
                max_new_tokens=settings.max_new_tokens,
                context=tokens.seq_len - 1,  # what training feeds: a row without its last token
                eos=chat.end if chat else special.eos,
                temperature=settings.temperature,
                top_k=settings.top_k,
                top_p=settings.top_p,
                seed=first_seed + number,
            )
            records.append({"step": at, "prompt": prompt, "number": number, "text": tokenizer.decode(ids)})
    model.train()
    return records
