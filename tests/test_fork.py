"""A fork is the run it began with, bit for bit, but for what its config changes; `suite diff` finds what that is."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import call, weights_of
from suite.base.errors import ConfigError
from suite.base.tracker import MEASURED, METRICS, read_records
from suite.data import shards
from suite.data import tokenizer as tokenizers
from suite.data.changes import Change, Changes
from suite.data.stream import stream_of
from suite.training import run
from suite.training.diff import difference
from suite.training.reading import Reading

PARENT = ["schedule.type=constant", "resume.steps=[8]", "resume.every_seconds=1000"]


def train(root: Path, name: str, *overrides: str) -> Path:
    call("train", root / "mamba.toml", f"root={root}", f"name={name}", *PARENT, *overrides)
    return root / "runs" / name


def records(folder: Path, after: int) -> list[dict]:
    """Without the clock's part."""
    return [
        {key: value for key, value in record.items() if not key.startswith(MEASURED)}
        for record in read_records(folder / METRICS)
        if record["step"] > after
    ]


def state(folder: Path, step: int) -> bytes:
    return (folder / f"resume-{step:08d}" / "optimizer.safetensors").read_bytes()


@pytest.fixture(scope="module")
def parent(tiny_root: Path) -> Path:
    return train(tiny_root, "fork-parent")


def parts(a: Path, b: Path):
    return difference(run.stored_run(a), run.stored_run(b))


def test_a_fork_that_changes_nothing_is_the_other_run(tiny_root, parent):
    fork = train(tiny_root, "fork-same", "from=runs/fork-parent@8")
    assert weights_of(fork, 14) == weights_of(parent, 14) and state(fork, 14) == state(parent, 14)
    assert records(fork, 8) == records(parent, 8)
    assert run.steps_in(fork) == [8, 14] and weights_of(fork, 8) == weights_of(parent, 8)
    found = parts(parent, fork)
    assert found.parted is None and found.first == 8 and found.same_weights == [8, 14] and not found.config


def test_a_budget_extended_by_a_fork_is_the_longer_run(tiny_root, parent):
    longer = train(tiny_root, "fork-longer", "budget.steps=20")
    fork = train(tiny_root, "fork-extended", "budget.steps=20", "from=runs/fork-parent@14")
    assert weights_of(fork, 20) == weights_of(longer, 20) and state(fork, 20) == state(longer, 20)
    assert records(fork, 14) == records(longer, 14)


def test_a_decay_branches_from_the_state_that_wsd_keeps(tiny_root):
    """Both branches share the stable phase: 12 steps of it are computed once."""
    stable = ["schedule.type=wsd", "schedule.decay_fraction=0.25", "budget.steps=16"]
    trunk = train(tiny_root, "fork-trunk", *stable, "resume.steps=[]")
    assert run.resume_steps(trunk) == [12, 16]
    branch = train(tiny_root, "fork-branch", *stable, "schedule.min_learning_rate=1e-3", "from=runs/fork-trunk@12")
    found = parts(trunk, branch)
    assert (found.learning_rate, found.loss, found.cause) == (13, 14, "learning rate")
    assert any("schedule.min_learning_rate: 0.0 -> 0.001" in line for line in found.config)


@pytest.mark.slow
def test_a_killed_fork_goes_on(tiny_root, parent):
    overrides = ["from=runs/fork-parent@8", "budget.steps=18"]
    left_alone = train(tiny_root, "fork-alone", *overrides)
    command = [
        sys.executable,
        "-m",
        "suite",
        "train",
        tiny_root / "mamba.toml",
        f"root={tiny_root}",
        "name=fork-killed",
    ]
    process = subprocess.Popen(
        [*map(str, command), *PARENT, *overrides, "resume.every_seconds=0"], stderr=subprocess.DEVNULL
    )
    killed = tiny_root / "runs" / "fork-killed"
    while len(read_records(killed / METRICS)) < 4:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    call("train", tiny_root / "mamba.toml", f"root={tiny_root}", "name=fork-killed", *PARENT, *overrides)
    assert weights_of(killed, 18) == weights_of(left_alone, 18) and records(killed, 0) == records(left_alone, 0)


def test_what_cannot_be_forked_is_refused_with_what_there_is(tiny_root, parent):
    for overrides, message in (
        (["from=runs/fork-parent@9"], r"no resume state of step 9 \(it has 8, 14\)"),
        (["from=runs/nothing@8"], "no run there"),
        (["from=runs/fork-parent"], "from: 'runs/fork-parent'"),
        (["from=runs/fork-parent@14"], "budget is 14 steps, which must be more"),
        (["from=runs/fork-parent@8", "model.hidden_size=16"], "model.hidden_size: 12 -> 16"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(tiny_root, "fork-refused", *overrides)


def test_documents_changed_from_a_step_on_change_nothing_before_it(tiny_root, parent):
    """Drop, swap and insert: rows differ where the changed documents are read and nowhere else, and diff says so."""
    config = run.stored_run(parent)
    tokens, tokenizer = (
        shards.read(config.path(config.data.tokens)),
        tokenizers.load(config.path("tokens/tiny/tokenizer")),
    )
    stream, row = stream_of(tokens, "train"), int(Reading(config, tokens, tokenizer).numbers(11)[0])
    dropped = int(np.searchsorted(stream.edges("train"), row * stream.stride))  # begins in a row that step 12 reads
    changes = f'data.changes=[{{after_step=10, drop=[{dropped}]}}, {{insert="the fox sat", at_steps=[13], sequence=1}}]'
    fork = train(tiny_root, "fork-changed", "from=runs/fork-parent@8", changes)
    config = run.stored_run(fork)
    changed, same = Reading(config, tokens, tokenizer), Reading(run.stored_run(parent), tokens, tokenizer)
    differ = [step for step in range(1, 15) if not np.array_equal(changed.ids(step - 1), same.ids(step - 1))]
    assert min(differ) > 10 and {12, 13} <= set(differ)
    found = parts(parent, fork)
    assert found.rows == found.loss == differ[0] and found.cause == "rows"
    assert weights_of(fork, 8) == weights_of(parent, 8)
    counted = {record["step"]: record["train/tokens"] for record in records(fork, 8) if "train/tokens" in record}
    uncounted = sum(int((changed.ids(step - 1)[:, 1:] < 0).sum()) for step in range(1, 15))
    assert uncounted > 0 and counted[14] == 14 * 6 * (tokens.seq_len - 1) - uncounted
    [line] = json.loads((fork / "environment.json").read_text())["from"]["differs"]
    assert line.startswith("data.changes: [] -> [{")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_changes_are_made_where_the_documents_stand(tiny_root, data):
    """Against the definition: the stream changed as one array, then cut into rows again."""
    tokens = shards.read(tiny_root / "tokens" / "tiny")
    tokenizer = tokenizers.load(tiny_root / "tokens" / "tiny" / "tokenizer")
    stream = stream_of(tokens, "train")
    edges = stream.edges("train")
    document = st.integers(0, len(edges) - 2)
    drop = tuple(data.draw(st.lists(document, max_size=4)))
    swap = tuple(data.draw(st.lists(st.tuples(document, document), max_size=3)))
    changes = Changes((Change(2, drop, swap),), tokens, "train", tokenizer)
    original = np.concatenate(list(stream.slices())).astype(np.int64)
    expected, nothing = original.copy(), ~tokens.eos
    for one in drop:
        expected[edges[one] : edges[one + 1]] = nothing
    for pair in swap:
        for place, text in (pair, pair[::-1]):
            taken = original[edges[text] : edges[text + 1]][: edges[place + 1] - edges[place]]
            expected[edges[place] : edges[place + 1]] = nothing
            expected[edges[place] : edges[place] + len(taken)] = taken
    rows = np.arange(len(stream.rows), dtype=np.uint64)
    before, after = (stream.rows.astype(np.int64) for _ in range(2))
    changes.apply(1, 0, rows, before)
    changes.apply(2, 0, rows, after)
    assert np.array_equal(before, stream.rows)
    assert np.array_equal(after[:, 1:].reshape(-1), expected) and (after[:, 0] == tokens.bos).all()
    differ = np.flatnonzero((after != before).any(1)).tolist()
    assert set(differ) <= set(changes.touches(2, rows)) and not changes.touches(1, rows)


def test_changes_that_cannot_be_made_are_refused(tiny_root, parent):
    for change, message in (
        ("{drop=[100000]}", "data.changes.0: document 100000, and .* holds whole documents 0 to"),
        ('{insert="x", at_steps=[9]}, {drop=[]}', "data.changes.1: give drop, swap or insert"),
        ('{insert="x"}', "insert and at_steps come together"),
        (f'{{insert="{"fox " * 400}", at_steps=[9]}}', "tokens with <bos> and <eos>, a row holds 384"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(tiny_root, "fork-refused", "from=runs/fork-parent@8", f"data.changes=[{change}]")


def test_diff_names_the_first_step_and_the_cause(tiny_root, parent):
    twin = train(tiny_root, "fork-twin")
    assert parts(parent, twin).parted is None
    causes = {
        "initial weights": (["seed=1"], 0),
        "rows": (["data.order_seed=1"], 1),
        "config": (["optimizer.weight_decay=0.2"], None),
        "numerics": (["batch.micro_sequences=3"], None),
    }
    for cause, (overrides, step) in causes.items():
        other = train(tiny_root, f"fork-{cause.replace(' ', '-')}", "budget.steps=4", *overrides)
        found = parts(parent, other)
        assert found.cause == cause and found.last == 4, cause
        assert step is None or found.parted == step, cause
    done = subprocess.run(
        [sys.executable, "-m", "suite", "diff", str(parent), str(tiny_root / "runs" / "fork-rows")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "they part at step 1: by rows" in done.stdout
    assert json.loads(call("diff", parent, twin, "--json"))["parted"] is None
