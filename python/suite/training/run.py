"""A run's folder: what it holds is this run or it is refused; what is finished is left alone.

Imports no torch, so that "nothing to do" takes a fraction of a second.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tomli

from suite.base.config import flatten, to_toml, validate
from suite.base.errors import ConfigError, IdentityError, SealError
from suite.base.store import is_sealed, open_sealed, read_json, write_atomically, write_json
from suite.base.tracker import METRICS, read_records
from suite.base.world import World
from suite.data import shards
from suite.data.batches import steps_of
from suite.training import schedule
from suite.training.config import OPERATIONAL, RunConfig
from suite.training.early import replayed
from suite.training.environment import environment
from suite.training.targets import mean_per_row

CONFIG = "config.toml"
ENVIRONMENT = "environment.json"
SAMPLES = "samples.jsonl"
STOPPED_ELSEWHERE = int(signal.SIGTERM)  # the signal of a rank that stops because another one was asked to


def folder_of(run: Path, step: int) -> Path:
    return run / f"step-{step:08d}"


def steps_in(run: Path) -> list[int]:
    """The sealed checkpoints of a run, ascending."""
    return sorted(
        int(path.name[5:]) for path in run.glob("step-????????") if is_sealed(path) and path.name[5:].isdecimal()
    )


def resume_steps(run: Path) -> list[int]:
    """The steps of a run's sealed resume states, ascending."""
    return sorted(
        int(path.name[7:]) for path in run.glob("resume-????????") if is_sealed(path) and path.name[7:].isdecimal()
    )


def manifest_of(run: Path, step: int) -> dict[str, Any]:
    return open_sealed(folder_of(run, step), "checkpoint", verify=False)


def stored_config(folder: Path) -> RunConfig | None:
    """The config that the run's folder began with, None when it has none. Raises SealError when it is damaged."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        return validate(RunConfig, tomli.loads(path.read_text(encoding="utf-8")))
    except (ValueError, ConfigError) as error:
        raise SealError(f"{path}: damaged ({str(error).splitlines()[0]}); restore it, or remove the run") from None


def stored_run(folder: Path) -> RunConfig:
    """The config of a run that has begun. Raises SealError where there is none."""
    config = stored_config(folder)
    if config is None:
        raise SealError(f"{folder}: no run there ({CONFIG} is absent)")
    root = folder.absolute().parents[len(Path(config.name).parts)]  # it is runs/NAME; a name may hold slashes
    return config.model_copy(update={"root": str(root)})


def steps_reading(config: RunConfig, tokens: shards.Tokens) -> Callable[[int], list[int]]:
    """The steps so far, as checkpoints count them, in which a run read a row of its training split.

    Raises IdentityError when the run began with other tokens.
    """
    began = stored_environment(config.folder)
    if began is None or began["tokens"] != tokens_fingerprint(config, tokens):
        raise IdentityError(f"{config.folder}: reads other tokens than {tokens.folder} holds")
    num_rows = tokens.split("train").rows
    done = max((record["step"] for record in read_records(config.folder / METRICS)), default=0)

    def steps(row: int) -> list[int]:
        return [1 + k for k in steps_of(row, config.batch.sequences, num_rows, config.data.order_seed, done)]

    return steps


def first_step(config: RunConfig) -> int:
    """The step a run begins with: 0, or where it was forked."""
    return int(config.from_.rpartition("@")[2]) if config.from_ else 0


def identity(config: RunConfig) -> dict[str, Any]:
    """All keys that say what a run is, flat, in the config's order; those that are None are left out."""
    return {key: value for key, value in _flat(config).items() if not key.startswith(OPERATIONAL)}


def _flat(config: RunConfig) -> dict[str, Any]:
    return flatten(json.loads(config.model_dump_json(exclude_none=True)))


def stored_environment(folder: Path) -> dict[str, Any] | None:
    """What the run began with, None when it has not begun. Raises SealError when the file is damaged."""
    path = folder / ENVIRONMENT
    if not path.is_file():
        return None
    began = read_json(path)
    good = (
        isinstance(began, dict) and isinstance(began.get("total_steps"), int) and isinstance(began.get("starts"), list)
    )
    if not good or not isinstance(began.get("tokens"), str):
        raise SealError(f"{path}: damaged; restore it, or remove the run")
    return began


def settle(config: RunConfig, choices: dict[str, Any]) -> RunConfig:
    """The config with everything chosen. What the run's folder already chose stays; `choices` fill the rest.

    Raises IdentityError, with the differences, when the folder holds another run.
    """
    stored = stored_config(config.folder)
    wanted = _flat(config)
    before = _flat(stored) if stored else {}  # a key that is newer than the run has its default
    for key, choice in choices.items():
        if wanted.get(key) in (None, "auto"):
            wanted[key] = before.get(key, choice)
    if stored:
        keys = [key for key in {**before, **wanted} if not key.startswith(OPERATIONAL)]
        differences = [
            f"{config.folder}: {key} is {before.get(key)!r} there, {wanted.get(key)!r} here"
            for key in keys
            if before.get(key) != wanted.get(key)
        ]
        if differences:
            raise IdentityError(
                "\n".join(differences)
                + f"\n{config.folder}: holds another run; give this one another name=, or remove that folder"
            )
    table: dict[str, Any] = {}
    for key, value in wanted.items():
        *path, last = key.split(".")
        section = table
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return validate(RunConfig, table)


def begin(
    config: RunConfig,
    tokens: shards.Tokens,
    step: int,
    origin: dict[str, Any] | None = None,
    measured: Mapping[str, float] = {},
) -> None:
    """Makes the folder with its config, and notes this start and what it runs on in its environment.

    `measured` is noted too; that it differs from start to start is its nature, and no reason to warn.

    Warns where that differs from the start before: bits may differ from there on. Raises IdentityError when the run
    began with other tokens.
    """
    fingerprint = tokens_fingerprint(config, tokens)
    began = stored_environment(config.folder) or {
        "tokens": fingerprint,
        "total_steps": total_steps(config, tokens),
        "starts": [],
        **({"from": origin} if origin else {}),
    }
    check_tokens(config, tokens, began)
    now = environment(config)
    for before in began["starts"][-1:]:
        for key in now:
            if (
                key in before
                and before[key] != now[key]
                and (key != "workers" or config.precision.reproducible is None)
            ):
                print(f"warning: {config.name}: {key} was {before[key]}, is {now[key]}", file=sys.stderr)
    began["starts"].append({"step": step, **now, "measured": dict(measured)})
    write_json(config.folder / ENVIRONMENT, began)
    write_atomically(config.folder / CONFIG, to_toml(config))


def check_tokens(config: RunConfig, tokens: shards.Tokens, began: dict[str, Any]) -> None:
    """Raises IdentityError when a run that has begun reads other tokens than these."""
    if began["tokens"] != tokens_fingerprint(config, tokens):
        raise IdentityError(
            f"{config.folder}: began with other tokens than {tokens.folder} holds now; give this run another name="
        )


def tokens_fingerprint(config: RunConfig, tokens: shards.Tokens) -> str:
    """One hash for all shards that a run reads."""
    import hashlib

    splits = [tokens.split(name) for name in ("train", *config.eval.splits)]
    hashes = [shard.sha256 for split in splits for shard in split.shards]
    hashes += [split.chat.answers.sha256 for split in splits if split.chat]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def total_steps(config: RunConfig, tokens: shards.Tokens) -> int:
    """How many updates the budget is. Raises ConfigError for steps elsewhere in the config that lie beyond it."""
    total = config.budget.num_steps(tokens.split("train").rows, config.batch.sequences, mean_per_row(tokens, "train"))
    beyond = [step for step in config.checkpoints.extra if step > total]
    if beyond:
        raise ConfigError(f"checkpoints.extra: {beyond[0]} is beyond the run's {total} steps")
    if first_step(config) >= total:
        raise ConfigError(f"from: {config.from_}: the run's budget is {total} steps, which must be more")
    schedule.check(config, tokens, total)
    return total


def finished_step(config: RunConfig) -> int | None:
    """The last step when the run is finished. Damage to its last checkpoint is an error, not a reason to go on."""
    began = stored_environment(config.folder)
    if began is None:
        return None
    early = stopped_early(config, read_records(config.folder / METRICS)) if config.early_stopping.patience else None
    last = began["total_steps"] if early is None else early
    if not is_sealed(folder_of(config.folder, last)):
        return None
    manifest_of(config.folder, last)
    return last


def stopped_early(config: RunConfig, records: list[dict[str, Any]]) -> int | None:
    """The step with which early stopping ended the run of these records, None when it did not."""
    return replayed(config.early_stopping, records)[1]


def train(config: RunConfig, world: World, on_record: Callable[[dict[str, Any]], None] = lambda record: None) -> Any:
    """training.loop.train, imported in the process that trains: whoever starts processes needs no torch."""
    from suite.training.loop import train

    return train(config, world, on_record)


def measure(config: RunConfig) -> Any:
    """training.probe.measure, likewise."""
    from suite.training.probe import measure

    return measure(config)


def train_alone(config: RunConfig) -> Any:
    return train(config, World(device=config.device))


def choices(config: RunConfig, cores: int, choose_device: Callable[[], str]) -> dict[str, Any]:
    """What a config leaves open, for `cores` shared by its workers. Asks for the device only when that is open too."""
    device = config.device
    if device == "auto":
        stored = stored_config(config.folder)
        device = stored.device if stored else choose_device()
    # Around 2,048 tokens keep a small model's activations in a core's cache; a GPU takes all of a worker's rows.
    sequences, in_tree = config.batch.sequences, config.precision.reproducible == "across-workers"
    if device == "cpu":
        micro = max(1, 2048 // config.data.seq_len)
    else:
        micro = -(-sequences // (8 if in_tree else config.num_workers))
    if in_tree:  # slices that do not depend on the number of workers, each a whole part of the batch
        micro = next(size for size in range(min(micro, sequences), 0, -1) if sequences % size == 0)
    return {
        "threads": 1 if in_tree else max(1, cores // config.num_workers),
        "device": device,
        "precision.dtype": "bfloat16" if device == "cuda" else "float32",
        "batch.micro_sequences": min(micro, sequences),
    }
