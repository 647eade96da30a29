"""Where two runs part, and by what: the first step that differs, and whether rows, rates, weights or only bits do.

Nothing is recorded for this beyond what every run keeps: rows follow from config and tokens, losses and rates stand in
metrics.jsonl with every bit, weights are known by the hashes of checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from suite.base.errors import SuiteError
from suite.base.tracker import METRICS, read_records
from suite.training import fork, prepare, run
from suite.training.config import RunConfig
from suite.training.reading import Reading

WEIGHTS = "model.safetensors"
# Keys that change in which order and precision the same sums are taken, and one that changes none of them.
NUMERIC = ("threads:", "device:", "precision.", "batch.micro_sequences:", "budget.")


@dataclass
class Difference:
    """What two runs share and where they part; steps as checkpoints count them, None where nothing differs."""

    config: list[str]  # "key: a -> b"
    environment: list[str]
    first: int  # the steps that both have: from here
    last: int
    rows: int | None = None  # the first step that reads other tokens
    rows_unknown: str | None = None  # why nobody can say
    learning_rate: int | None = None
    loss: int | None = None  # or the gradient's norm
    validation: int | None = None
    weights: int | None = None  # the first common checkpoint whose weights are not the same bits
    same_weights: list[int] = field(default_factory=list)

    @property
    def parted(self) -> int | None:
        """The first step at which anything that was computed differs."""
        steps = [step for step in (self.loss, self.validation, self.weights) if step is not None]
        return min(steps, default=None)

    @property
    def cause(self) -> str | None:
        """What explains it: the first of initial weights, rows, learning rate, config, and if none, numerics."""
        if self.parted is None:
            return None
        if self.weights == self.first:
            return "initial weights"
        causes = [(self.rows, "rows"), (self.learning_rate and self.learning_rate + 1, "learning rate")]
        explained = [(step, name) for step, name in causes if step is not None and step <= self.parted]
        if explained:
            return min(explained)[1]
        return "numerics" if all(line.startswith(NUMERIC) for line in self.config) else "config"


def difference(a: RunConfig, b: RunConfig) -> Difference:
    """Of two runs that have begun. Raises SealError where a run's files are damaged."""
    records = [_by_step(one) for one in (a, b)]
    first = max(run.first_step(a), run.first_step(b))
    last = min(max(one, default=0) for one in records)
    found = Difference(fork.differences(a, b), _environments(a, b), first, last)
    common = range(first + 1, last + 1)
    found.learning_rate = _first(records, common, ("train/learning_rate",))
    found.loss = _first(records, common, ("train/loss", "train/grad_norm"))
    found.validation = _first(records, range(first, last + 1), ("validation/loss",))
    for step in sorted(set(run.steps_in(a.folder)) & set(run.steps_in(b.folder))):
        one, other = (run.manifest_of(config.folder, step)["files"][WEIGHTS] for config in (a, b))
        if one != other:
            found.weights = step
            break
        found.same_weights.append(step)
    try:
        found.rows = _first_other_rows(a, b, common)
    except SuiteError as error:
        found.rows_unknown = str(error)
    return found


def _by_step(config: RunConfig) -> dict[int, dict[str, Any]]:
    merged: dict[int, dict[str, Any]] = {}
    for record in read_records(config.folder / METRICS):
        merged.setdefault(record["step"], {}).update(record)
    return merged


def _first(records: list[dict[int, dict[str, Any]]], steps: Iterable[int], keys: tuple[str, ...]) -> int | None:
    """The first step at which both runs have one of these values and it is not the same."""
    a, b = records
    for step in steps:
        for key in keys:
            one, other = a.get(step, {}).get(key), b.get(step, {}).get(key)
            if one is not None and other is not None and one != other:
                return step
    return None


def _first_other_rows(a: RunConfig, b: RunConfig, steps: range) -> int | None:
    begun = [run.stored_environment(config.folder) or {} for config in (a, b)]
    same_tokens = begun[0].get("tokens") == begun[1].get("tokens")
    order = ("batch.sequences", "data.order_seed", "data.changes")
    one, other = run.identity(a), run.identity(b)
    if same_tokens and all(one.get(key) == other.get(key) for key in order):
        return None
    readings = []
    for config, began in zip((a, b), begun, strict=True):
        tokens, tokenizer = prepare.opened(config)
        run.check_tokens(config, tokens, began)
        readings.append(Reading(config, tokens, tokenizer))
    for step in steps:
        ids, others = (reading.ids(step - 1) for reading in readings)
        if not np.array_equal(ids, others):
            return step
    return None


def _environments(a: RunConfig, b: RunConfig) -> list[str]:
    """What the two ran on, where that differs: values of any of their starts."""
    starts = [(run.stored_environment(config.folder) or {"starts": []})["starts"] for config in (a, b)]
    lines = []
    for key in dict.fromkeys(key for start in chain(*starts) for key in start if key not in ("step", "measured")):
        one, other = ([*dict.fromkeys(str(start.get(key)) for start in some)] for some in starts)
        if one != other:
            lines.append(f"{key}: {' then '.join(one)} -> {' then '.join(other)}")
    return lines
