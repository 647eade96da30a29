"""Training speed on one core, against what people use, in steps on the same rows.

A step is forward, backward, clip and AdamW. Ours and theirs take turns step by step in one process, so a noisy
neighbour hits all of them; a figure is tokens per second of CPU time in the median step. MFU is of the fastest matrix
product that the same core was seen to do in the same precision, and counts what a step must multiply: 6 for each weight
but the embedding's, and the seen half of attention.
"""

from __future__ import annotations

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import peers
import torch
from peers import Step, version_of
from rows import Row, arguments, show

from suite.base.world import World
from suite.models.build import Model, build, initialize
from suite.models.config import LlamaConfig, MambaConfig
from suite.models.ops.linear import product
from suite.training import optim
from suite.training.config import RunConfig, load_run
from suite.training.update import Update

VOCAB, SEQ_LEN = 4096, 512


def llama(hidden_size: int, intermediate_size: int, layers: int, heads: int, kv_heads: int) -> LlamaConfig:
    return LlamaConfig(type="llama", hidden_size=hidden_size, intermediate_size=intermediate_size,
                       num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads)  # fmt: skip


def mamba(hidden_size: int, layers: int) -> MambaConfig:
    return MambaConfig(type="mamba", hidden_size=hidden_size, num_hidden_layers=layers)


# The configs of configs/stories; sequences in a batch; the goal against the best peer, or against each.
LLAMAS = {
    "llama-100k": (llama(12, 32, 1, 2, 1), 4, 3.0),
    "llama-1m": (llama(84, 244, 4, 6, 3), 4, 1.4),
    "llama-10m": (llama(340, 907, 6, 10, 5), 2, 1.8),
    "llama-50m": (llama(704, 1877, 8, 16, 8), 1, 2.3),
}
MAMBAS = {
    "mamba-100k": (mamba(24, 2), 4, {"transformers": 35, "mambapy": 5}),
    "mamba-1m": (mamba(112, 6), 2, {"transformers": 100, "mambapy": 6}),
    "mamba-10m": (mamba(400, 8), 1, {"transformers": 60, "mambapy": 5}),
}
QUICK = ("llama-100k", "llama-1m", "mamba-100k")


def run_config(config, sequences: int, dtype: str, root: str, *more: str) -> RunConfig:
    path = Path(root) / "bench.toml"
    fields = config.model_dump(exclude_none=True).items()
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields]  # a string, number or truth as TOML has it too
    path.write_text("\n".join(['name = "bench"', "threads = 1", "[model]", *lines]) + "\n")
    settings = ["data.tokens=tokens", f"batch.sequences={sequences}", f"batch.micro_sequences={sequences}"]
    return load_run([path], [f"root={root}", f"precision.dtype={dtype}", "device=cpu", *settings, *more])


def ours(config, ids_BT: torch.Tensor, dtype: str = "float32", *more: str) -> tuple[Step, Model]:
    model = build(config, VOCAB)
    initialize(model, 0)
    model.train()
    with tempfile.TemporaryDirectory() as root:
        settings = run_config(config, len(ids_BT), dtype, root, "budget.steps=1", *more)
    update = Update(model, optim.adamw(model, settings.optimizer), settings, World(), -100)
    return (lambda: update(ids_BT, ids_BT[:, 1:].numel(), 1e-4).tolist()), model


def medians(steps: Mapping[str, Callable[[], object]], repetitions: int, once: Sequence[str] = ()) -> dict[str, float]:
    """CPU seconds of each contestant's median step, taken in turns after an untimed round; of those in `once`, which
    take minutes, the one step."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repetitions + 1):
        for name, one_step in steps.items():
            if name in once and turn != 1:
                continue
            began = time.process_time()
            one_step()
            if turn:
                seconds[name].append(time.process_time() - began)
    return {name: statistics.median(times) for name, times in seconds.items()}


def flops(model: Model, config, ids_BT: torch.Tensor) -> float:
    """What a step must multiply and add. Mamba's scan is left out: it is no matrix product."""
    tied = config.tie_word_embeddings
    weights = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name)
    weights += VOCAB * config.hidden_size if tied else 0
    tokens = ids_BT[:, 1:].numel()
    attention = 0
    if config.type == "llama":
        attention = config.num_hidden_layers * config.num_attention_heads * config.head_dim * SEQ_LEN
    return 6.0 * tokens * (weights + attention)


def peak(dtype: torch.dtype) -> float:
    """The most multiplications and additions a second of CPU time, seen in products of 1024 by 1024."""
    a, b = torch.randn(1024, 1024).to(dtype), torch.randn(1024, 1024).to(dtype)
    best = 0.0
    for _ in range(30):
        began = time.process_time()
        for _ in range(4):
            product(a, b) if dtype == torch.float32 else a @ b.T
        best = max(best, 4 * 2 * 1024**3 / (time.process_time() - began))
    return best


def rows_of_llama(name: str, quick: bool, peaks: dict[str, float]) -> list[Row]:
    config, batch, goal = LLAMAS[name]
    ids_BT = torch.randint(0, VOCAB, (batch, SEQ_LEN), generator=torch.Generator().manual_seed(0))
    big = name in ("llama-10m", "llama-50m")
    dtypes = ["float32", "bfloat16"] if big else ["float32"]
    own = {dtype: ours(config, ids_BT, dtype) for dtype in dtypes}
    steps: dict[str, Step] = {dtype: step for dtype, (step, _) in own.items()}
    others = {peer: make(config, VOCAB, ids_BT) for peer, make in peers.LLAMA.items()}
    others = {peer: step for peer, step in others.items() if step is not None}
    steps |= others
    if big:
        steps["autocast"] = peers.autocast(config, VOCAB, ids_BT)
    took = medians(steps, 3 if quick or name == "llama-50m" else 5 if big else 9)
    tokens, best = ids_BT[:, 1:].numel(), min(others, key=lambda peer: took[peer])
    rows = []
    for dtype in dtypes:
        short = {"float32": "", "bfloat16": ", bfloat16"}[dtype]
        of_peak = flops(own[dtype][1], config, ids_BT) / took[dtype] / peaks[dtype]
        counts = not big or dtype == min(dtypes, key=lambda dtype: took[dtype])
        rows.append(Row(f"{name}{short}: tokens per CPU-second", tokens / took[dtype], "tokens/s"))
        rows.append(Row(f"{name}{short}: times the best peer", took[best] / took[dtype], "ratio",
                        f">= {goal}" if counts else None, best, version_of(peers.PACKAGE[best])))  # fmt: skip
        rows.append(Row(f"{name}{short}: MFU", of_peak, "of peak", ">= 0.5" if big and dtype == "float32" else None))
    own_best = min(took[dtype] for dtype in dtypes)
    for peer in others:
        if peer != best:
            rows.append(Row(f"{name}: times {peer}", took[peer] / own_best, "ratio", None, peer,
                            version_of(peers.PACKAGE[peer])))  # fmt: skip
    if big:
        rows.append(Row(f"{name}: times transformers in bfloat16", took["autocast"] / own_best, "ratio", None,
                        "transformers", version_of("transformers")))  # fmt: skip
    return rows


def rows_of_mamba(name: str, quick: bool, peaks: dict[str, float]) -> list[Row]:
    config, batch, goals = MAMBAS[name]
    ids_BT = torch.randint(0, VOCAB, (batch, SEQ_LEN), generator=torch.Generator().manual_seed(0))
    own, model = ours(config, ids_BT)
    others = {peer: make(config, VOCAB, ids_BT) for peer, make in peers.MAMBA.items()}
    steps: dict[str, Step] = {"ours": own} | {peer: step for peer, step in others.items() if step is not None}
    took = medians(steps, 3 if quick or name != "mamba-100k" else 7, () if name == "mamba-100k" else ("transformers",))
    rows = [
        Row(f"{name}: tokens per CPU-second", ids_BT[:, 1:].numel() / took["ours"], "tokens/s"),
        Row(f"{name}: MFU without the scan", flops(model, config, ids_BT) / took["ours"] / peaks["float32"], "of peak"),
    ]
    for peer, goal in goals.items():
        if peer in took:
            rows.append(Row(f"{name}: times {peer}", took[peer] / took["ours"], "ratio", f">= {goal}", peer,
                            version_of(peers.PACKAGE[peer])))  # fmt: skip
    return rows


def exactness(quick: bool) -> list[Row]:
    """What it costs to ask torch for deterministic algorithms, and to sum gradients in the order that any number of
    workers has (in a batch of four micro-batches of two), as times the plain step."""
    rows = []
    for name, (config, batch) in {"llama-1m": LLAMAS["llama-1m"][:2], "mamba-1m": MAMBAS["mamba-1m"][:2]}.items():
        ids_BT = torch.randint(0, VOCAB, (batch, SEQ_LEN), generator=torch.Generator().manual_seed(0))
        plain, _ = ours(config, ids_BT)

        def deterministic(step: Step = plain) -> None:
            torch.use_deterministic_algorithms(True)
            step()
            torch.use_deterministic_algorithms(False)

        took = medians({"plain": plain, "deterministic": deterministic}, 5 if quick else 15)
        rows.append(Row(f"{name}: deterministic, times the plain step", took["deterministic"] / took["plain"], "ratio"))
        ids_BT = torch.randint(0, VOCAB, (8, SEQ_LEN), generator=torch.Generator().manual_seed(0))
        halves = "batch.micro_sequences=2"
        ways = {"plain": [halves], "across": [halves, "precision.reproducible=across-workers"]}
        took = medians(
            {way: ours(config, ids_BT, "float32", *more)[0] for way, more in ways.items()}, 5 if quick else 15
        )
        rows.append(Row(f"{name}: across-workers, times the plain step", took["across"] / took["plain"], "ratio"))
    return rows


def overhead(quick: bool) -> list[Row]:
    """The whole loop (reading, learning rate, logging) against what its own updates take inside it."""
    from suite.data.pack import one_pass
    from suite.executor.local import map_in_order
    from suite.training import prepare, run

    config, batch, _ = LLAMAS["llama-1m"]
    updating, after = [], []

    def timed(self: Update, *arguments, update=Update.__call__) -> torch.Tensor:
        began = time.thread_time()  # of the thread that computes: another one reads the next rows meanwhile
        numbers = update(self, *arguments)
        updating.append(time.thread_time() - began)
        after.append(time.process_time())
        return numbers

    settings = ["data.source=stories:3k", f"data.vocab_size={VOCAB}", f"budget.steps={20 if quick else 100}",
                "checkpoints.per_octave=0", "checkpoints.linear=1"]  # fmt: skip
    with tempfile.TemporaryDirectory() as root, patch.object(Update, "__call__", timed):
        given = run_config(config, batch, "float32", root, *settings)
        settled = run.settle(given, run.choices(given, 1, lambda: "cpu"))
        prepare.ensure(settled, one_pass(map_in_order(1)), lambda line: None)
        run.train_alone(settled)
    whole, alone = after[-1] - after[0], sum(updating[1:])
    return [Row("llama-1m: the loop, times its updates alone", whole / alone, "ratio", "<= 1.02")]


def main() -> None:
    options = arguments(__doc__ or "", only="names of sizes, and `costs`, with commas between them")
    torch.set_num_threads(1)
    peaks = {"float32": peak(torch.float32), "bfloat16": peak(torch.bfloat16)}
    rows = [Row(f"matrix product, {dtype}", value / 1e9, "GF/s") for dtype, value in peaks.items()]
    names = options.only.split(",") if options.only else [*(QUICK if options.quick else [*LLAMAS, *MAMBAS]), "costs"]
    for name in names:
        if name in LLAMAS:
            rows += rows_of_llama(name, options.quick, peaks)
        elif name in MAMBAS:
            rows += rows_of_mamba(name, options.quick, peaks)
        else:
            rows += exactness(options.quick) + overhead(options.quick)
        gc.collect()
    show(rows, options.json)


if __name__ == "__main__":
    main()
