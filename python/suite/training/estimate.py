"""Held-out loss: nats per token over whole documents from <bos>, and the text's own surprisal where it is known.

Documents, not the rows that training reads: a row begins in the middle of a document, so its first tokens would
be charged for what nobody could know. On whole stories the floor is exact.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from suite.base.errors import TokenizerError
from suite.base.world import World
from suite.data import stories
from suite.data.shards import Tokens
from suite.data.tokenizer import Tokenizer
from suite.models.build import Model
from suite.models.score import token_nats

ROWS_PER_BATCH = 16


# What a tokenizer must give back byte for byte, or nobody knows how many bytes its tokens were.
_PROBES = ("a b", " a  b ", "\n\ta\r\n", "e\u0301 \ufb00 \u01c4", "\u6771\u4eac \U0001f642", "'s 12,5 <eos>")


@dataclass(frozen=True)
class HeldOut:
    """Rows to evaluate on, each from <bos>; `targets` tokens are predicted in all.

    `floor` is the exact surprisal of the same text in nats per token, None where nobody knows it. `num_bytes` of text
    are what is predicted, None where the tokenizer does not say.
    """

    rows: list[np.ndarray]
    targets: int
    floor: float | None
    num_bytes: int | None = None
    counted: list[np.ndarray] | None = None  # of each row, bool [len(row) - 1]; None: all are predicted

    @classmethod
    def of(cls, tokens: Tokens, split: str, max_rows: int | None, tokenizer: Tokenizer) -> HeldOut:
        """At most `max_rows` rows of a split, whole documents first to last; None: all of it."""
        max_rows = sys.maxsize if max_rows is None else max_rows
        if tokens.split(split).chat:
            return cls._of_conversations(tokens, split, max_rows)
        documents = tokens.each_document(split)
        first = next(documents, None)
        known = first is not None and tokens.split(split).source.startswith("stories:")
        if first is None:  # one long text, or none that ends inside the rows
            rows_of_split = tokens.rows(split)[:max_rows]
            documents = (row[int(row[0] == tokens.bos) :] for row in rows_of_split)
        else:
            documents = chain([first], documents)
        content = tokens.seq_len - 1
        rows, whole = [], []
        for document in documents:
            parts = [document[start : start + content] for start in range(0, len(document), content)]
            if len(rows) + len(parts) > max_rows and rows:
                break
            rows += [np.concatenate([[tokens.bos], part]) for part in parts]
            whole.append(document if len(parts) == 1 else None)
        rows = rows[:max_rows]
        targets = sum(len(row) - 1 for row in rows)
        nats = _surprisal(whole, tokenizer) if known else None
        floor = nats / targets if nats is not None and targets else None
        return cls(rows, targets, floor, _num_bytes(rows, tokenizer))

    @classmethod
    def _of_conversations(cls, tokens: Tokens, split: str, max_rows: int) -> HeldOut:
        """A row each; their answers are what is predicted."""
        rows = tokens.rows(split)[:max_rows]
        counted_BT = tokens.answers(split).counted(np.arange(len(rows)), tokens.seq_len)
        lengths = [int(np.flatnonzero(one)[-1]) + 1 for one in counted_BT]  # what follows the last answer is not read
        counted = [one[1:length] for one, length in zip(counted_BT, lengths, strict=True)]
        read = [row[:length] for row, length in zip(rows, lengths, strict=True)]
        return cls(read, int(sum(one.sum() for one in counted)), None, None, counted)

    def figures(self, name: str, loss: float) -> dict[str, float]:
        """What is logged of a loss, in nats per token, on these rows."""
        figures = {f"{name}/loss": loss, f"{name}/perplexity": math.exp(loss) if loss < 700 else math.inf}
        if self.num_bytes:
            figures[f"{name}/bits_per_byte"] = loss * self.targets / self.num_bytes / math.log(2)
        return figures if self.floor is None else {**figures, f"{name}/floor": self.floor}


def _num_bytes(rows: list[np.ndarray], tokenizer: Tokenizer) -> int | None:
    """Bytes of the text that the rows' tokens after <bos> spell, None when the tokenizer does not keep texts whole."""
    spelled = tokenizer.bytes_of_ids()
    if spelled is None or not rows:
        return None
    try:
        whole = all(b"".join(spelled[i] for i in tokenizer.encode(text)) == text.encode() for text in _PROBES)
    except TokenizerError:  # a vocabulary without all the bytes
        return None
    sizes = np.array([len(one) for one in spelled])
    return int(sum(sizes[row[1:]].sum() for row in rows)) if whole else None


def _surprisal(documents: list[np.ndarray | None], tokenizer: Tokenizer) -> float | None:
    """Exact nats of stories; None when one was cut, or its text did not survive the tokenizer."""
    if any(document is None for document in documents):
        return None
    try:
        return sum(stories.nats(tokenizer.decode(document)) for document in documents if document is not None)
    except ValueError:
        return None


@torch.no_grad()
def loss(model: Model, held_out: HeldOut, world: World) -> float:
    """Mean nats per token, in the weights' own precision (no autocast). Ranks share the batches."""
    model.eval()
    starts = range(0, len(held_out.rows), ROWS_PER_BATCH)
    # A place for each batch, 0 on the other ranks: adding those rounds nothing, whatever the number of ranks.
    nats = torch.zeros(len(starts), dtype=torch.float64)
    for number, start in list(enumerate(starts))[world.rank :: world.size]:
        rows = held_out.rows[start : start + ROWS_PER_BATCH]
        width = max(map(len, rows))
        ids_BT = torch.zeros(len(rows), width, dtype=torch.int64)
        for i, row in enumerate(rows):
            ids_BT[i, : len(row)] = torch.from_numpy(row.astype(np.int64))
        lengths = torch.tensor([len(row) - 1 for row in rows])
        real_BT = (
            torch.arange(width - 1)[None] < lengths[:, None]
        )  # padding is on the right: it changes nothing before it
        for i, counted in enumerate((held_out.counted or [])[start : start + ROWS_PER_BATCH]):
            real_BT[i, : len(counted)] = torch.from_numpy(counted)
        nats[number] = token_nats(model, ids_BT.to(world.device)).cpu()[real_BT].double().sum()
    model.train()
    nats = nats.to(world.device)
    world.sum(nats)
    return math.fsum(nats.tolist()) / held_out.targets
