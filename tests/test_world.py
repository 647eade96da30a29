"""Workers of one run, as gloo processes: the same rows for any number of them, and the same losses to rounding."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import call, weights_of
from ranks import batches_of_this_rank
from suite import _core
from suite.base.tracker import MEASURED, METRICS, read_records
from suite.data.batches import batch_rows, rank_slice
from suite.executor.local import launch
from suite.training.tree import Tree, shape_of

ROWS, BATCH, STEPS, SEED = 37, 6, 20, 5


def slow_order(seed: int, epoch: int, num_rows: int) -> list[int]:
    """The definition in rust/core/src/order.rs, again, in slow Python integers."""
    mask64 = (1 << 64) - 1

    def mix(value: int) -> int:
        z = (value + 0x9E3779B97F4A7C15) & mask64
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask64
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask64
        return z ^ z >> 31

    half = (max(8, (num_rows - 1).bit_length()) + 1) // 2
    keys, state = [], mix(mix(seed) ^ epoch)
    for _ in range(8):
        state = mix(state)
        keys.append(state)

    def permute(value: int) -> int:
        left, right = value >> half, value & ((1 << half) - 1)
        for key in keys:
            left, right = right, left ^ (mix(right ^ key) & ((1 << half) - 1))
        return left << half | right

    rows = []
    for position in range(num_rows):
        value = permute(position)
        while value >= num_rows:
            value = permute(value)
        rows.append(value)
    return rows


def order(seed: int, num_rows: int, start: int, count: int) -> list[int]:
    return np.frombuffer(_core.order_rows(seed, num_rows, start, count), np.uint64).tolist()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**20), num_rows=st.integers(1, 1500))
def test_the_order_is_the_definition_and_a_bijection(seed, epoch, num_rows):
    rows = order(seed, num_rows, epoch * num_rows, num_rows)
    assert rows == slow_order(seed, epoch, num_rows)
    assert sorted(rows) == list(range(num_rows))


# One, and around every power of two, where the number of bits and with it the length of the walk changes.
sizes = st.integers(0, 61).flatmap(lambda bits: st.sampled_from([max(1, 2**bits - 1), 2**bits, 2**bits + 1]))


@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**20), num_rows=sizes, data=st.data())
def test_from_a_row_back_to_its_position(seed, epoch, num_rows, data):
    """A bijection, whatever its size: each of two maps undoes the other, and both stay inside."""
    position = data.draw(st.integers(0, num_rows - 1))
    back = np.frombuffer(_core.order_positions(seed, num_rows, epoch, np.array([position], np.uint64)), np.uint64)
    assert back[0] < num_rows
    if (epoch + 1) * num_rows < 2**63:  # positions of the endless order are 64 bits
        rows = np.array(order(seed, num_rows, epoch * num_rows + position, 1), np.uint64)
        assert rows[0] < num_rows
        assert np.frombuffer(_core.order_positions(seed, num_rows, epoch, rows), np.uint64)[0] == position
        assert order(seed, num_rows, epoch * num_rows + int(back[0]), 1) == [position]


def test_positions_of_rows_that_are_not_there_are_refused():
    for rows, num_rows, message in (([5], 5, "row 5 of 5 rows"), ([0], 0, "an order needs 1 to")):
        with pytest.raises(ValueError, match=message):
            _core.order_positions(1, num_rows, 0, np.array(rows, np.uint64))


def test_the_order_is_pinned():
    assert order(1337, 8, 0, 24) == PINNED_ORDER


def test_epochs_are_not_related():
    """In delphi's order a quarter of positions is within 0.2 % of the epoch before; by chance 0.4 % would be."""
    n = 200_000
    first, second = np.array(order(3, n, 0, n), dtype=np.int64), np.array(order(3, n, n, n), dtype=np.int64)
    near = np.mean(np.abs(first[:-1] - second[1:]) <= n // 500)
    assert near < 0.006  # expected 0.004, standard error 0.00014
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(first, np.arange(n))[0, 1]) < 5 / np.sqrt(n)


@pytest.mark.parametrize("num_rows", [2**31 + 11, 2**40 + 7])
def test_the_order_of_large_data_stays_inside_it(num_rows):
    rows = order(9, num_rows, num_rows - 500, 1000)
    assert max(rows) < num_rows and len(set(rows[:500])) == len(set(rows[500:])) == 500


@given(batch=st.integers(1, 300), world=st.integers(1, 64))
def test_ranks_share_a_batch_without_gap_or_overlap(batch, world):
    parts = [rank_slice(batch, rank, world) for rank in range(world)]
    assert [edge for part in parts for edge in part][1:-1] == [first for first, _ in parts[1:] for _ in (0, 1)]
    assert parts[0][0] == 0 and parts[-1][1] == batch


def test_every_epoch_sees_every_row_once_across_batch_edges():
    rows = np.concatenate([batch_rows(step, 0, 1, BATCH, ROWS, SEED) for step in range(ROWS)])
    for epoch in range(len(rows) // ROWS):
        assert sorted(rows[epoch * ROWS : (epoch + 1) * ROWS].tolist()) == list(range(ROWS))


@pytest.mark.parametrize("size", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_rows_of_each_step_are_the_same_for_any_number_of_workers(size):
    """Real gloo processes gather what each of them would read."""
    alone = [batch_rows(step, 0, 1, BATCH, ROWS, SEED).tolist() for step in range(STEPS)]
    assert launch(batches_of_this_rank, (STEPS, BATCH, ROWS, SEED), size, "cpu", print) == alone


def test_two_workers_train_as_one_does_to_rounding(tiny_root: Path):
    def losses(name: str) -> list[float]:
        return [r["train/loss"] for r in read_records(tiny_root / "runs" / name / METRICS) if "train/loss" in r]

    for workers in (1, 2):
        name = f"of-{workers}"
        arguments = [f"root={tiny_root}", f"name={name}", f"num_workers={workers}", "executor=local", "budget.steps=6"]
        call("train", tiny_root / "llama.toml", *arguments)
    # The same rows in another order of summation: six updates of a tiny model move rounding by less than 1e-5.
    assert np.allclose(losses("of-1"), losses("of-2"), rtol=0, atol=1e-5)
    assert losses("of-1") != [losses("of-1")[0]] * 6


def trained(root: Path, name: str, *overrides: str) -> Path:
    call("train", root / "llama.toml", f"root={root}", f"name={name}", "executor=local", *overrides)
    return root / "runs" / name


def comparable(run: Path) -> list[dict]:
    """Records without what clocks and meters say."""
    return [
        {key: value for key, value in record.items() if not key.startswith(MEASURED)}
        for record in read_records(run / METRICS)
    ]


def same_bits(run: Path, other: Path, steps: int) -> None:
    assert weights_of(run, steps) == weights_of(other, steps)
    state = f"resume-{steps:08d}/optimizer.safetensors"
    assert (run / state).read_bytes() == (other / state).read_bytes()
    assert comparable(run) == comparable(other)


ACROSS = ["precision.reproducible=across-workers", "budget.steps=5", "threads=1"]


@pytest.mark.parametrize(
    "sequences, workers",
    [(8, 2), pytest.param(8, 4, marks=pytest.mark.slow), pytest.param(12, 2, marks=pytest.mark.slow)],
)
def test_across_workers_any_number_of_them_gives_the_same_bits(tiny_root, sequences, workers):
    """Weights, both moments, losses, norms and held-out losses of every step, ==. 12 sequences are leaves of three."""
    arguments = [*ACROSS, f"batch.sequences={sequences}"]
    alone = trained(tiny_root, f"across-{sequences}-{workers}-alone", *arguments)
    shared = trained(tiny_root, f"across-{sequences}-{workers}", f"num_workers={workers}", *arguments)
    same_bits(shared, alone, 5)


def test_across_workers_is_the_plain_sum_to_rounding(tiny_root):
    """The tree changes the order of a sum and nothing else: 5 updates of a tiny model move less than 1e-5."""
    tree = trained(tiny_root, "across-tree", "batch.sequences=12", *ACROSS)
    plain = trained(tiny_root, "across-plain", "batch.sequences=12", *ACROSS[1:])
    losses = [[r["train/loss"] for r in read_records(run / METRICS) if "train/loss" in r] for run in (tree, plain)]
    assert np.allclose(*losses, rtol=0, atol=1e-5) and weights_of(tree, 5) != weights_of(plain, 5)


@given(leaves=st.integers(0, 6).map(lambda k: 2**k), odd=st.sampled_from([1, 3, 5, 7]), data=st.data())
def test_a_tree_of_any_part_is_a_branch_of_the_whole(leaves, odd, data):
    """Sums that rounding tells apart: parts of the leaves, summed alone and then together, are the whole."""
    import torch

    assert shape_of(leaves * odd) == (odd, leaves)
    values = torch.randn(leaves, 3, generator=torch.Generator().manual_seed(leaves * odd))

    def total(part: torch.Tensor) -> torch.Tensor:
        tree = Tree()
        for leaf in part:
            tree.add(leaf.clone())
        return tree.total()

    def slow(part: torch.Tensor) -> torch.Tensor:
        return part[0] if len(part) == 1 else slow(part[: len(part) // 2]) + slow(part[len(part) // 2 :])

    workers = 2 ** data.draw(st.integers(0, leaves.bit_length() - 1))
    assert torch.equal(total(values), slow(values))
    assert torch.equal(total(torch.stack([total(part) for part in values.chunk(workers)])), slow(values))


def test_what_across_workers_cannot_keep_is_refused(tiny_root):
    from suite.base.errors import ConfigError

    for overrides, message in (
        (["num_workers=3", "batch.sequences=12"], "the same bits on 1, 2 workers with 6 micro-batches"),
        (["batch.sequences=7"], "7 is not a multiple of batch.micro_sequences 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            trained(tiny_root, "across-refused", *ACROSS, *overrides)


@pytest.mark.parametrize("whom", ["all", pytest.param("one rank", marks=pytest.mark.slow)])
def test_workers_asked_to_stop_agree_on_a_step_and_keep_it(tiny_root, whom):
    """A signal to the command, or to a single rank that its machine wants to be rid of."""
    arguments = [*ACROSS[:1], "batch.sequences=8", "num_workers=2", "executor=local", "resume.every_seconds=1000"]
    name = f"stopped-{whom.replace(' ', '-')}"
    common = [tiny_root / "llama.toml", f"root={tiny_root}", "budget.steps=24", *arguments]
    run = tiny_root / "runs" / name
    process = subprocess.Popen(
        [sys.executable, "-m", "suite", "train", *map(str, common), f"name={name}"], stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while len(read_records(run / METRICS)) < 5:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    if whom == "all":
        process.send_signal(signal.SIGTERM)
    else:
        os.kill(ranks_of(process.pid)[-1], signal.SIGUSR1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75 and "run the same command again" in said and "Traceback" not in said
    [resume] = run.glob("resume-*")
    assert 0 < int(resume.name[7:]) == read_records(run / METRICS)[-1]["step"] < 24
    call("train", *common, f"name={name}")
    call("train", *common, "name=stopped-never", "num_workers=1", "threads=1")
    same_bits(run, tiny_root / "runs" / "stopped-never", 24)


def ranks_of(pid: int) -> list[int]:
    """The spawned ranks among a command's children, in the order of their start."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in children if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


PINNED_ORDER = [1, 4, 0, 5, 2, 7, 3, 6, 5, 0, 7, 1, 3, 2, 4, 6, 2, 3, 1, 4, 5, 6, 7, 0]
