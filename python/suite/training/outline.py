"""What `suite train --dry-run` prints: what would be made, trained and kept, and where. Writes nothing."""

from __future__ import annotations

from suite.data import shards, tokenizer
from suite.models.build import build, num_parameters
from suite.training import prepare, run, schedule
from suite.training.config import RunConfig

FLOAT_BYTES = 4  # weights and both moments are float32


def outline(config: RunConfig, executor: str) -> list[tuple[str, str]]:
    """Pairs of a heading and a line, for a settled config.

    Raises what the run would raise for its config and for what lies in its folders; a source is not looked at.
    """
    if executor == "ray":
        config.check_for_ray()
    missing = prepare.missing_splits(config)
    tokens = None if missing else prepare.opened(config)[0]
    vocab_size = config.model.vocab_size or (tokens.vocab_size if tokens else config.data.vocab_size)
    counts = num_parameters(build(config.model, vocab_size, "meta"))
    lines = [
        ("run", str(config.folder)),
        (
            "model",
            f"{config.model.type}, {counts['total']:,} parameters, {counts['without_embeddings']:,} without embeddings",
        ),
        ("tokens", _tokens(config, missing, tokens)),
    ]
    if steps := _steps(config, tokens):
        targets = config.batch.sequences * (config.data.seq_len - 1)
        kept = schedule.checkpoint_steps(config.checkpoints, steps, config.schedule)
        lines += [
            (
                "budget",
                f"{steps:,} steps of {targets:,} tokens: {steps * targets:,} tokens{_epochs(config, tokens, steps)}",
            ),
            ("checkpoints", f"{len(kept)}: {_shortened(kept)}"),
            (
                "disk",
                f"{_size(len(kept) * counts['total'])} of checkpoints, {_size(3 * counts['total'])} to resume from",
            ),
        ]
    else:
        lines.append(("budget", f"{config.budget.epochs:g} epochs of rows that are still to be counted"))
    began = run.stored_environment(config.folder)
    resumes = run.resume_steps(config.folder)
    begins = f"goes on from step {resumes[-1]:,}" if began and resumes else "begins at step 0"
    return [*lines, ("workers", _workers(config, executor)), ("this run", begins)]


def _tokens(config: RunConfig, missing: list[str], tokens: shards.Tokens | None) -> str:
    data, folder = config.data, config.path(config.data.tokens)
    if tokens:
        rows = ", ".join(f"{tokens.split(name).rows:,} rows of {name}" for name in ("train", "validation"))
        return f"{folder}: {rows}, {tokens.seq_len} tokens each"
    home = prepare.tokenizer_folder(config)
    made = "" if tokenizer.is_there(home) else f", after a tokenizer of {data.vocab_size:,} tokens in {home}"
    return f"{folder}: {' and '.join(missing)} to be made from {data.source}{made}"


def _steps(config: RunConfig, tokens: shards.Tokens | None) -> int | None:
    if tokens:
        return run.total_steps(config, tokens)
    if config.budget.epochs is not None:
        return None
    return config.budget.num_steps(0, config.batch.sequences, config.data.seq_len - 1)


def _epochs(config: RunConfig, tokens: shards.Tokens | None, steps: int) -> str:
    return f", {steps * config.batch.sequences / tokens.split('train').rows:.2f} epochs" if tokens else ""


def _workers(config: RunConfig, executor: str) -> str:
    number, threads = config.num_workers, config.threads or 1
    each = f"{threads} thread{'s' * (threads > 1)}, {config.device}, {config.precision.dtype}"
    if executor == "ray":
        each += ", " + " and ".join(f"{amount:g} {name}" for name, amount in config.worker_resources.items())
    return f"{number}, {executor}: {each}{' each' * (number > 1)}"


def _shortened(steps: tuple[int, ...] | list[int]) -> str:
    shown = [f"{step:,}" for step in steps]
    return ", ".join(shown if len(shown) <= 9 else [*shown[:5], "...", *shown[-3:]])


def _size(floats: int) -> str:
    size = floats * FLOAT_BYTES
    unit, scale = next(((unit, scale) for unit, scale in (("GB", 1e9), ("MB", 1e6)) if size >= scale), ("kB", 1e3))
    return f"{size / scale:.3g} {unit}"
