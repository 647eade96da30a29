"""Training speed on one core, against transformers' own models in the same loop.

A step is forward, backward, clip and AdamW on the same rows. Ours and theirs take turns step by step in one
process, so a noisy neighbour hits both; a figure is tokens per second of CPU time in the median step.
"""

from __future__ import annotations

import statistics
import time

import torch
from rows import Row, arguments, show

from suite.models.build import build, initialize
from suite.models.config import LlamaConfig, MambaConfig
from suite.training import optim, step
from suite.training.config import OptimizerConfig

VOCAB, SEQ_LEN = 4096, 512

SIZES = {
    "llama-100k": (LlamaConfig(type="llama", hidden_size=12, intermediate_size=32, num_hidden_layers=1,
                               num_attention_heads=2, num_key_value_heads=1), 4),
    "llama-1m": (LlamaConfig(type="llama", hidden_size=84, intermediate_size=244, num_hidden_layers=4,
                             num_attention_heads=6, num_key_value_heads=3), 4),
    "mamba-100k": (MambaConfig(type="mamba", hidden_size=24, num_hidden_layers=2), 4),
    "mamba-1m": (MambaConfig(type="mamba", hidden_size=112, num_hidden_layers=6), 2),
}  # fmt: skip


def ours(config, ids_BT):
    model = build(config, VOCAB)
    initialize(model, 0)
    optimizer = optim.adamw(model, OptimizerConfig())

    def one_step():
        optimizer.zero_grad(set_to_none=True)
        step.accumulate(model, ids_BT, ids_BT[:, 1:].numel(), 4, torch.float32)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return one_step


def theirs(config, ids_BT):
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config.to_hf(VOCAB, SEQ_LEN))).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.95), weight_decay=0.1)

    def one_step():
        optimizer.zero_grad(set_to_none=True)
        model(ids_BT, labels=ids_BT).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return one_step


def medians(steps, repetitions: int) -> list[float]:
    """CPU seconds of each contestant's median step, taken in turns after one untimed round."""
    seconds = [[] for _ in steps]
    for turn in range(repetitions + 1):
        for times, one_step in zip(seconds, steps, strict=True):
            began = time.process_time()
            one_step()
            if turn:
                times.append(time.process_time() - began)
    return [statistics.median(times) for times in seconds]


def main() -> None:
    options = arguments(__doc__ or "")
    from transformers import __version__

    torch.set_num_threads(1)
    rows = []
    for name, (config, batch) in SIZES.items():
        slow = name == "mamba-1m"
        if options.quick and slow:
            continue
        ids_BT = torch.randint(0, VOCAB, (batch, SEQ_LEN), generator=torch.Generator().manual_seed(0))
        fast, peer = medians([ours(config, ids_BT), theirs(config, ids_BT)], 5 if slow else 3 if options.quick else 9)
        goal = ">= 10" if config.type == "mamba" else None
        peer_name = {"peer": "transformers eager", "version": __version__}
        rows.append(Row(f"{name}: tokens per CPU-second", batch * SEQ_LEN / fast, "tokens/s"))
        rows.append(Row(f"{name}: times transformers", peer / fast, "ratio", goal, **peer_name))
    show(rows, options.json)


if __name__ == "__main__":
    main()
