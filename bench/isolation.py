"""What isolating documents costs: a forward and backward with it and without, in turns in one process.

Rows have an <eos> every 170 tokens or so, as the stories' have. Times are CPU seconds of the median turn on one core.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rows import Row, arguments, show
from train import Step, medians

from suite.base.special import SpecialIds
from suite.models.build import build, initialize
from suite.training import step
from suite.training.config import load_run

CONFIGS = Path(__file__).parents[1] / "configs" / "stories"
VOCAB, SEQ_LEN, DOCUMENT = 4096, 512, 170
SPECIAL = SpecialIds(0, 1, 2)
SIZES = {"llama-100k": 4, "llama-1m": 4, "llama-10m": 1, "mamba-100k": 4, "mamba-1m": 2}  # rows at a time


def passes(name: str, ids_BT: torch.Tensor, isolate: SpecialIds | None) -> Step:
    model = build(load_run([CONFIGS / f"{name}.toml"], []).model, VOCAB)
    initialize(model, 0)

    def one_pass() -> None:
        model.zero_grad(set_to_none=True)
        step.accumulate(model, ids_BT, ids_BT[:, 1:].numel(), len(ids_BT), torch.float32, isolate=isolate)

    return one_pass


def main() -> None:
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    rows = []
    for name, batch in SIZES.items():
        if options.quick and name == "llama-10m":
            continue
        generator = torch.Generator().manual_seed(0)
        ids_BT = torch.randint(3, VOCAB, (batch, SEQ_LEN), generator=generator)
        ids_BT[torch.rand(ids_BT.shape, generator=generator) < 1 / DOCUMENT] = SPECIAL.eos
        ids_BT[:, 0] = SPECIAL.bos
        contestants = {"without": passes(name, ids_BT, None), "isolated": passes(name, ids_BT, SPECIAL)}
        seconds = medians(contestants, 5 if options.quick else 15)
        rows.append(Row(f"{name}: isolated, times without", seconds["isolated"] / seconds["without"], "ratio"))
    show(rows, options.json)


if __name__ == "__main__":
    main()
