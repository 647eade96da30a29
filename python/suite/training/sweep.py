"""Learning rates tried side by side: which runs a sweep is made of, how a process works through them, what they found.

Each is a normal run under runs/sweep-NAME/MEMBER/rate-R/seed-S, so a sweep that is stopped goes on where it was, and
what is finished is not run again. A run that diverges leaves diverged.json, which is a result as well.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from suite.base.config import load_layers, validate
from suite.base.errors import ConfigError, DivergedError
from suite.base.store import is_sealed, write_json
from suite.models.config import HfConfig
from suite.training import run
from suite.training.config import RunConfig
from suite.training.rates import Best, Law, best_rate, fit_law

DIVERGED = "diverged.json"
OWN = ("name", "seed", "optimizer.learning_rate")  # keys that a sweep sets
# Checkpoints are for looking back at; a sweep looks at the end.
ONLY_THE_END = {"checkpoints": {"per_octave": 0, "linear": 0}, "samples": {"prompts": []}}


def parse_rates(text: str) -> list[float]:
    """ "1e-4:3e-2:9" -> nine rates, equal factors apart, to three digits; or rates divided by commas."""
    try:
        if ":" in text:
            low, high, count = text.split(":")
            first, last, steps = float(low), float(high), int(count)
            if not 0 < first < last < math.inf or not 3 <= steps <= 100:
                raise ValueError
            rates = [first * (last / first) ** (i / (steps - 1)) for i in range(steps)]
        else:
            rates = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--rates {text}: expected LOW:HIGH:COUNT such as 1e-4:3e-2:9, or rates with commas"
        ) from None
    rounded = sorted({float(f"{rate:.2e}") for rate in rates})
    if not all(0 < rate < math.inf for rate in rounded):
        raise ConfigError(f"--rates {text}: a rate is above 0")
    return rounded


def runs_of(
    files: list[Path], rates: list[float], seeds: int, steps: int | None, name: str, overrides: list[str]
) -> list[RunConfig]:
    """Every run of the sweep, size by size, rates ascending. Raises ConfigError with a line for every mistake."""
    if taken := [override for override in overrides if override.split("=")[0].strip() in OWN]:
        raise ConfigError(f"{taken[0]}: a sweep sets {', '.join(OWN)} itself, from --name, --seeds and --rates")
    mistakes: list[str] = []
    members: dict[str, Path] = {}
    runs: list[RunConfig] = []
    for file in files:
        try:
            table, origins = load_layers([file], overrides)
            if "suite" in table:
                raise ConfigError(f"{file}: a suite of runs; name the files of its members")
            member = str(table.get("name", file.stem))
            if member in members:
                raise ConfigError(f"{file}: {members[member]} is named {member!r} as well")
            members[member] = file
            table.setdefault("threads", 1)  # many runs side by side: one core each
            for section, keys in ONLY_THE_END.items():
                table[section] = {**table.get(section, {}), **keys}
            table["checkpoints"].pop("preset", None)
            if steps is not None:
                table["budget"] = {"steps": steps}
            for rate in rates:
                for seed in range(seeds):
                    own = {
                        **table,
                        "name": f"sweep-{name}/{member}/rate-{shown(rate)}/seed-{seed}",
                        "seed": seed,
                        "optimizer": {**table.get("optimizer", {}), "learning_rate": rate},
                    }
                    runs.append(validate(RunConfig, own, origins))
        except ConfigError as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise ConfigError("\n".join(dict.fromkeys(mistakes)))
    return runs


def shown(rate: float) -> str:
    return f"{rate:.2e}".replace("+", "")  # a run's name has no plus


def member_of(config: RunConfig) -> str:
    return config.name.split("/", 1)[1].rsplit("/", 2)[0]


def loss_of(config: RunConfig) -> float | None:
    """The final held-out loss of a run, infinite for one that diverged; None while it is not finished."""
    if (config.folder / DIVERGED).is_file():
        return math.inf
    last = run.finished_step(config)
    return None if last is None else float(run.manifest_of(config.folder, last)["validation_loss"])


def work(share: tuple[list[RunConfig], Any]) -> None:
    """Trains the runs that no other process has begun, one after another: torch is imported once for many.

    share: the settled runs, and a number that all processes share, multiprocessing.Value("l"), of those begun.
    """
    runs, begun = share
    while True:
        with begun.get_lock():
            number = begun.value
            begun.value += 1
        if number >= len(runs):
            return
        train(runs[number])


def train(config: RunConfig) -> None:
    """One run of a sweep: to its end, or to the note that it diverged."""
    if loss_of(config) is not None:
        return
    try:
        run.train_alone(config)
    except DivergedError as error:
        write_json(config.folder / DIVERGED, {"why": str(error)})


def width_of(config: RunConfig) -> int | None:
    """None where transformers' class decides what its width is called."""
    return None if isinstance(config.model, HfConfig) else config.model.hidden_size


def tried(runs: list[RunConfig]) -> list[RunConfig]:
    """The runs and those that earlier commands finished in the same sweep with other rates or seeds, and no other
    difference: a sweep whose best rate lies at an end goes on with more rates and keeps what it has."""
    known = {config.name for config in runs}
    found = list(runs)
    for member in dict.fromkeys(map(member_of, runs)):
        like = next(config for config in runs if member_of(config) == member)
        for folder in sorted(like.folder.parents[1].glob("rate-*/seed-*")):
            stored = run.stored_config(folder)
            if stored is None or stored.name in known:
                continue
            other = stored.model_copy(update={"root": like.root})
            if _but_own(other) == _but_own(like) and loss_of(other) is not None:
                found.append(other)
    return found


def _but_own(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in run.identity(config).items() if key not in OWN}


def parameters_of(config: RunConfig) -> int:
    """Parameters without embeddings, as the run's own checkpoint counts them."""
    last = run.steps_in(config.folder)[-1]
    return int(run.manifest_of(config.folder, last)["parameters"]["without_embeddings"])


def results(runs: list[RunConfig], over: str) -> list[dict[str, Any]]:
    """One entry for each size, in the order given: its size, losses by rate and seed, and best rate."""
    found: list[dict[str, Any]] = []
    for member in dict.fromkeys(map(member_of, runs)):
        mine = [config for config in runs if member_of(config) == member]
        losses: dict[float, list[float | None]] = {}
        for config in mine:
            loss = loss_of(config)
            assert loss is not None, "the sweep must be finished"
            losses.setdefault(config.optimizer.learning_rate, []).append(None if math.isinf(loss) else loss)
        survivor = next((config for config in mine if is_sealed(run.folder_of(config.folder, 0))), mine[0])
        entry: dict[str, Any] = {
            "member": member,
            "type": mine[0].model.type,
            "width": width_of(mine[0]),
            "parameters": parameters_of(survivor),
            "losses": dict(sorted(losses.items())),
        }
        entry["size"] = entry[over]
        if entry["size"] is None:
            raise ConfigError(f"{member}: model.type is hf, which has no width of one name; --over parameters")
        try:
            entry["best"] = best_rate(losses)
        except ValueError as error:
            entry["best"] = Best(min(losses), None, min(losses), math.inf, f"{error}: sweep lower ones")
        found.append(entry)
    return found


def laws(found: list[dict[str, Any]]) -> dict[str, Law | None]:
    """For each family the rule over the sizes that were swept."""
    return {
        kind: fit_law(
            [entry["size"] for entry in found if entry["type"] == kind],
            [entry["best"] for entry in found if entry["type"] == kind],
        )
        for kind in dict.fromkeys(entry["type"] for entry in found)
    }


def write(folder: Path, found: list[dict[str, Any]], rules: dict[str, Law | None], about: dict[str, Any]) -> None:
    """sweep.json: what was asked, every loss, the best rates and the rules."""
    sizes = [
        {
            **entry,
            "losses": {shown(rate): values for rate, values in entry["losses"].items()},
            "best": _plain(entry["best"]),
        }
        for entry in found
    ]
    write_json(
        folder / "sweep.json", {**about, "sizes": sizes, "laws": {k: law and _plain(law) for k, law in rules.items()}}
    )


def _plain(value: Any) -> dict[str, Any]:
    table = asdict(value)
    return {key: None if isinstance(item, float) and math.isinf(item) else item for key, item in table.items()}
