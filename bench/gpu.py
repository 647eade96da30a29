"""Speed on a GPU, after proof that the numbers are right: exits with one line where there is none.

First the kernels against float64, then whether training repeats its bits, alone, as a graph, and resumed. Then tokens
per second and MFU of a whole update (32 rows of 512, bfloat16) beside transformers' models: eager, compiled, and by its
Trainer. Contestants take turns, ten steps each; a figure is the median turn. Last, several small models on one GPU.

--parts checks,speed,trainer,scan,several and --sizes 100k,1m,10m,50m pick; with --json every row is printed as soon as
it stands. Needs torch, triton, numpy, the package's folder `python` on PYTHONPATH with its compiled `_core` in it, and
pydantic, pydantic-core, annotated-types, typing-inspection, typing-extensions, tomli and tomli-w. Without transformers
its rows are missing; Trainer also asks for accelerate. No Ray, no datasets, no network.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts: deterministic parts need it

import torch
from rows import Row, arguments, show

from suite.base.world import World
from suite.models import ops
from suite.models.build import build, initialize
from suite.models.config import LlamaConfig, MambaConfig
from suite.training import optim
from suite.training.config import RunConfig, load_run
from suite.training.update import Update

CONFIGS = Path(__file__).parents[1] / "configs" / "stories"
SIZES = ["100k", "1m", "10m", "50m"]
PARTS = ["checks", "speed", "trainer", "scan", "several"]
VOCAB, SEQ_LEN, STEPS_A_TURN = 4096, 512, 10

ROWS: list[Row] = []
Step = Callable[[], object]


def report(as_json: bool, *row, **more) -> None:
    ROWS.append(Row(*row, **more))
    if as_json:
        print(json.dumps(asdict(ROWS[-1])), flush=True)


def config_of(family: str, size: str, **changes: object) -> RunConfig:
    overrides = ["precision.dtype=bfloat16", *(f"{key}={json.dumps(value)}" for key, value in changes.items())]
    config = load_run([CONFIGS / f"{family}-{size}.toml"], overrides)
    rows = {"batch": config.batch.model_copy(update={"micro_sequences": config.batch.sequences})}
    return config.model_copy(update=rows)


def native(config: RunConfig) -> LlamaConfig | MambaConfig:
    assert isinstance(config.model, LlamaConfig | MambaConfig)
    return config.model


def batches_of(config: RunConfig, count: int = 8) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (config.batch.sequences, SEQ_LEN)
    return [torch.randint(VOCAB, shape, generator=generator).cuda() for _ in range(count)]


class Ours:
    """A model, its optimizer and one update after another on the same few batches."""

    def __init__(self, config: RunConfig, compiled: bool = False) -> None:
        self.model = build(config.model, VOCAB)
        initialize(self.model, 0)
        self.model.cuda().train()
        self.optimizer = optim.adamw(self.model, config.optimizer)
        self.update = Update(self.model, self.optimizer, config, World(device="cuda"), -100)
        if compiled:
            self.model.hidden = torch.compile(self.model.hidden)  # pyright: ignore[reportAttributeAccessIssue]
        self.batches, self.at = batches_of(config), 0

    def __call__(self) -> torch.Tensor:
        ids_BT = self.batches[self.at % len(self.batches)]
        self.at += 1
        return self.update(ids_BT, ids_BT[:, 1:].numel(), 1e-3)

    def bits(self) -> list[torch.Tensor]:
        state = optim.state_by_name(self.model, self.optimizer)
        return [*(p.detach().cpu() for p in self.model.parameters()), *state.values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    return float(all(torch.equal(a, b) for a, b in zip(one, other, strict=True)))


# ── checks ──


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-300)).item()


def worst_error(op, reference, inputs: list[torch.Tensor]) -> float:
    """Of the output and every gradient, against the reference in float64, over the largest value of each."""
    doubles = [tensor.double().requires_grad_() for tensor in inputs]
    expected = reference(*doubles)
    singles = [tensor.detach().requires_grad_() for tensor in inputs]
    found = op(*singles)
    grad = torch.randn(expected.shape, dtype=torch.float64, device="cuda")
    expected_grads = torch.autograd.grad(expected, doubles, grad)
    found_grads = torch.autograd.grad(found, singles, grad.float())
    return max(map(error, (found, *found_grads), (expected, *expected_grads)))


def scan_inputs(batch: int, time: int, channels: int, num_states: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    btd, btn = (batch, time, channels), (batch, time, num_states)
    u, delta, B, C, z = (torch.randn(shape, device="cuda") for shape in (btd, btd, btn, btn, btd))
    A = -torch.rand(channels, num_states, device="cuda") * num_states
    D, bias = torch.randn(channels, device="cuda"), torch.randn(channels, device="cuda") - 2
    return [u, delta, A, B, C, D, z, bias]


def checks(as_json: bool, quick: bool) -> None:
    torch.use_deterministic_algorithms(True)  # so that the scan is ours where mamba-ssm is installed
    for shape in [(2, 70, 24, 16), (3, 33, 130, 5)] + ([] if quick else [(4, 512, 224, 16)]):
        inputs = scan_inputs(*shape)
        wrong = worst_error(ops.selective_scan, ops.selective_scan_reference, inputs)
        report(as_json, f"scan {shape}: worst error", wrong * 1e6, "1e-6", "<= 2")
        x, weight, bias = inputs[0], torch.randn(shape[2], 4, device="cuda"), inputs[5]
        wrong = worst_error(ops.conv_silu, ops.conv_silu_reference, [x, weight, bias])
        report(as_json, f"convolution {shape}: worst error", wrong * 1e6, "1e-6", "<= 2")
    targets = torch.randint(VOCAB, (5000,), device="cuda")
    hidden, weight = torch.randn(5000, 84, device="cuda"), torch.randn(VOCAB, 84, device="cuda") / 9
    wrong = worst_error(
        lambda hidden, weight: ops.linear_cross_entropy(hidden, weight, targets),
        lambda hidden, weight: ops.linear_cross_entropy_reference(hidden, weight, targets),
        [hidden, weight],
    )
    report(as_json, "linear + cross-entropy: worst error", wrong * 1e6, "1e-6", "<= 4")
    for head_dim in (2, 14, 34, 64):
        q, k, v = (torch.randn(2, 3, 70, head_dim, device="cuda") for _ in range(3))
        wrong = worst_error(ops.causal_attention, ops.causal_attention_reference, [q, k, v])
        report(as_json, f"attention, heads of {head_dim}: worst error", wrong * 1e6, "1e-6", "<= 2")
    for family in ("llama", "mamba"):
        repeats(as_json, family)
    torch.use_deterministic_algorithms(False)


def repeats(as_json: bool, family: str) -> None:
    """Whether eight steps give the same bits twice, without a graph, and from a state kept after the fifth."""
    graph, plain = config_of(family, "100k"), config_of(family, "100k", cuda_graphs=False)
    finals = []
    for config in (graph, graph, plain):
        run = Ours(config)
        for _ in range(8):
            run()
        finals.append(run.bits())
        refused = getattr(run.update.run, "refused", None)
        if refused:
            print(f"{family}: the step could not be recorded as a graph", file=sys.stderr)
    report(as_json, f"{family}-100k: eight steps twice, same bits", same(finals[0], finals[1]), "yes=1", ">= 1")
    report(as_json, f"{family}-100k: with and without a graph, same bits", same(finals[0], finals[2]), "yes=1", ">= 1")
    first = Ours(graph)
    for _ in range(5):
        first()
    resumed = Ours(graph)
    resumed.model.load_state_dict(first.model.state_dict())
    optim.load_state(resumed.model, resumed.optimizer, optim.state_by_name(first.model, first.optimizer))
    resumed.at = 5
    for _ in range(3):
        resumed()
    report(as_json, f"{family}-100k: resumed after five, same bits", same(finals[0], resumed.bits()), "yes=1", ">= 1")
    eager = Ours(plain)
    for _ in range(2):
        eager()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        eager()
        waits = 0.0
    except RuntimeError as error:
        print(f"{family}: the host waits: {str(error).splitlines()[0]}", file=sys.stderr)
        waits = 1.0
    torch.cuda.set_sync_debug_mode("default")
    report(as_json, f"{family}-100k: the host waits within a step", waits, "yes=1", "<= 0")


# ── speed ──


def milliseconds(steps: dict[str, Step], turns: int) -> dict[str, float]:
    """Of one step of each, in the median turn, in turns; one that fails is named on stderr and left out."""
    times: dict[str, list[float]] = {}
    for name, step in list(steps.items()):
        try:
            for _ in range(6):  # compiles, warms up, records
                step()
            torch.cuda.synchronize()
            times[name] = []
        except Exception as error:
            print(f"{name}: left out: {type(error).__name__}: {str(error).splitlines()[:1]}", file=sys.stderr)
    for _ in range(turns):
        for name, measured in times.items():
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            began.record()
            for _ in range(STEPS_A_TURN):
                steps[name]()
            ended.record()
            ended.synchronize()
            measured.append(began.elapsed_time(ended) / STEPS_A_TURN)
    return {name: statistics.median(measured) for name, measured in times.items()}


def theirs(config: RunConfig, compiled: bool) -> Step:
    from transformers import AutoConfig, AutoModelForCausalLM

    model = (
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**native(config).to_hf(VOCAB, SEQ_LEN))).cuda().train()
    )
    run = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    batches = batches_of(config)
    at = 0

    def step() -> None:
        nonlocal at
        at += 1
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = run(batches[at % len(batches)], labels=batches[at % len(batches)]).loss  # pyright: ignore
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def flops_per_token(model: torch.nn.Module, config: RunConfig) -> float:
    """Forward and backward: six for every weight of a product, and the causal half of attention."""
    embeddings = ("embed_tokens.weight", "embeddings.weight", "conv1d.weight", "A_log")
    products = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and not name.endswith(embeddings))
    if getattr(config.model, "tie_word_embeddings", False):
        products += VOCAB * native(config).hidden_size
    attention = 0
    if isinstance(config.model, LlamaConfig):
        attention = config.model.num_hidden_layers * SEQ_LEN * config.model.hidden_size
    return 6.0 * (products + attention)


def peak_flops() -> float:
    """Of a bfloat16 product of 8192 x 8192 matrices, per second: what MFU is measured against."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / (milliseconds({"product": lambda: a @ b}, 5)["product"] / 1e3)


def speed(as_json: bool, quick: bool, sizes: list[str]) -> None:
    peak = peak_flops()
    report(as_json, "bfloat16 matrix product", peak / 1e12, "TFLOP/s")
    for size in sizes:
        for family in ("llama", "mamba"):
            config = config_of(family, size)
            mine = Ours(config)
            steps: dict[str, Step] = {"ours": mine, "ours, no graph": Ours(config_of(family, size, cuda_graphs=False))}
            if not quick:
                steps["ours, compiled"] = Ours(config, compiled=True)
            try:
                import transformers

                peers = {"version": transformers.__version__}
                steps["transformers eager"] = theirs(config, compiled=False)
                if not quick:
                    steps["transformers compiled"] = theirs(config, compiled=True)
            except ImportError:
                peers = {}
            tokens = config.batch.sequences * (SEQ_LEN - 1)
            times = milliseconds(steps, 3 if quick else 7)
            for name, time in times.items():
                report(as_json, f"{family}-{size}, {name}", tokens / time * 1e3, "tokens/s")
            if "ours" not in times:
                continue
            mfu = flops_per_token(mine.model, config) * tokens / (times["ours"] / 1e3) / peak
            report(as_json, f"{family}-{size}: MFU", mfu, "of peak")
            for name in times:
                if name != "ours":
                    version = peers.get("version") if name.startswith("transformers") else None
                    ratio = times[name] / times["ours"]
                    report(as_json, f"{family}-{size}: times", ratio, "ratio", peer=name, version=version)


def trainer(as_json: bool, sizes: list[str]) -> None:
    """transformers' Trainer, whole steps with its own loop and loader, against our update."""
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments
        from transformers import __version__ as version
    except ImportError as error:
        print(f"trainer: left out: {error}", file=sys.stderr)
        return

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.began, self.ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

        def on_step_end(self, args, state, control, **_):
            if state.global_step == 10:
                self.began.record()
            if state.global_step == 30:
                self.ended.record()

    for size in sizes:
        for family in ("llama", "mamba"):
            config = config_of(family, size)
            ids = torch.cat([batch.cpu() for batch in batches_of(config, 30)])
            examples = [{"input_ids": row, "labels": row} for row in ids]
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**native(config).to_hf(VOCAB, SEQ_LEN)))
            settings = TrainingArguments(
                output_dir="/tmp/suite-bench-trainer",
                max_steps=30,
                per_device_train_batch_size=config.batch.sequences,
                bf16=True,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            )
            clock = Clock()
            try:
                Trainer(model=model, args=settings, train_dataset=examples, callbacks=[clock]).train()  # pyright: ignore
            except Exception as error:
                print(f"trainer {family}-{size}: left out: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            clock.ended.synchronize()
            theirs_ms = clock.began.elapsed_time(clock.ended) / 20
            ours_ms = milliseconds({"ours": Ours(config)}, 5)["ours"]
            more = {"peer": "transformers Trainer", "version": version}
            report(as_json, f"{family}-{size}: times Trainer", theirs_ms / ours_ms, "ratio", **more)


def scan(as_json: bool) -> None:
    """The scan alone, forward and backward, beside mamba-ssm's where that works."""
    from suite.models.ops import mamba_ssm

    for channels in (48, 224, 800, 1904):
        inputs = [tensor.requires_grad_() for tensor in scan_inputs(32, SEQ_LEN, channels, 16)]
        grad = torch.randn_like(inputs[0])

        def ours(inputs=inputs, grad=grad) -> None:
            torch.use_deterministic_algorithms(True)
            torch.autograd.grad(ops.selective_scan(*inputs), inputs, grad)
            torch.use_deterministic_algorithms(False)

        def theirs(inputs=inputs, grad=grad) -> None:
            torch.autograd.grad(mamba_ssm.selective_scan(*inputs), inputs, grad)

        times = milliseconds({"ours": ours, **({"mamba-ssm": theirs} if mamba_ssm.works() else {})}, 5)
        least = (
            (4 + 7) * inputs[0].numel() * 4
        )  # u, delta, z and out; then those four's gradients and u, delta, z again
        report(as_json, f"scan of {channels} channels", times["ours"], "ms")
        report(as_json, f"scan of {channels} channels: least traffic", least / times["ours"] / 1e6, "GB/s")
        if "mamba-ssm" in times:
            ratio = times["mamba-ssm"] / times["ours"]
            report(as_json, f"scan of {channels} channels: times", ratio, "ratio", peer="mamba-ssm")


def several(as_json: bool, quick: bool) -> None:
    """Small models on one GPU: at the same time, a stream each, against one after another."""
    for family in ("llama", "mamba"):
        for count in (4,) if quick else (2, 4, 8):
            runs = [Ours(config_of(family, "100k")) for _ in range(count)]
            streams = [torch.cuda.Stream() for _ in runs]

            def together(runs=runs, streams=streams) -> None:
                current = torch.cuda.current_stream()
                for run, stream in zip(runs, streams, strict=True):
                    stream.wait_stream(current)
                    with torch.cuda.stream(stream):
                        run()
                for stream in streams:
                    current.wait_stream(stream)

            def in_turn(runs=runs) -> None:
                for run in runs:
                    run()

            times = milliseconds({"in turn": in_turn, "together": together}, 5)
            if len(times) == 2:
                ratio = times["in turn"] / times["together"]
                report(as_json, f"{count} of {family}-100k: together over in turn", ratio, "ratio")


def main() -> None:
    options = arguments((__doc__ or "").splitlines()[0], parts=f"of {','.join(PARTS)}", sizes=f"of {','.join(SIZES)}")
    if not torch.cuda.is_available():
        sys.exit("bench/gpu.py: torch finds no GPU here; bench/train.py measures on a CPU")
    parts = options.parts.split(",") if options.parts else PARTS
    sizes = options.sizes.split(",") if options.sizes else (["100k", "10m"] if options.quick else SIZES)
    unknown = [name for name in parts if name not in PARTS] + [name for name in sizes if name not in SIZES]
    if unknown:
        sys.exit(f"bench/gpu.py: {unknown[0]}: not one of {', '.join(PARTS + SIZES)}")
    if not options.json:
        print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}, CUDA {torch.version.cuda}")
    if "checks" in parts:
        checks(options.json, options.quick)
    if "speed" in parts:
        speed(options.json, options.quick, sizes)
    if "trainer" in parts and not (options.quick and not options.parts):
        trainer(options.json, sizes)
    if "scan" in parts:
        scan(options.json)
    if "several" in parts:
        several(options.json, options.quick)
    if not options.json:
        show(ROWS, False)
    missed = [row.name for row in ROWS if row.met() == "MISSED" and row.unit in ("1e-6", "yes=1")]
    if missed:
        sys.exit(f"bench/gpu.py: not as it must be: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
