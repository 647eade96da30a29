"""What a step costs: the share of the peak, memory, energy, and that reading them costs next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from conftest import call
from suite.base.tracker import METRICS, read_records
from suite.base.world import World
from suite.data import cache
from suite.models.config import LlamaConfig
from suite.training import flops, meter, peak
from suite.training.config import load_run

TINY_LLAMA = LlamaConfig(
    type="llama", hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2,
)  # fmt: skip


def test_a_run_says_what_its_steps_cost(tiny_root: Path):
    call("train", tiny_root / "llama.toml", f"root={tiny_root}", "name=metered", "budget.steps=5")
    run = tiny_root / "runs" / "metered"
    steps = [record for record in read_records(run / METRICS) if "train/loss" in record]
    [start] = json.loads((run / "environment.json").read_text())["starts"]
    per_token = flops.of_row(TINY_LLAMA, 300, 383).training_per_token
    for record in steps:
        rate = record["train/tokens_per_second"]
        assert record["train/mfu"] == pytest.approx(
            rate * per_token / start["measured"]["matmul_peak_flops_per_second"], rel=1e-9
        )
    assert 50e6 < steps[0]["memory/peak_bytes"] < 100e9  # a process that has imported torch


def test_memory_is_the_most_that_this_process_has_had():
    """In a process of its own: one that has freed memory before may fill that again, and its peak stays."""
    grow = """
import torch
from suite.training import meter
before = meter.peak_bytes("cpu")
held = torch.ones(256 << 20, dtype=torch.uint8)
with_it = meter.peak_bytes("cpu")
del held
print(before, with_it, meter.peak_bytes("cpu"))
"""
    done = subprocess.run([sys.executable, "-c", grow], capture_output=True, text=True, check=True)
    before, with_it, after = map(int, done.stdout.split())
    assert (200 << 20) < with_it - before < (300 << 20)
    assert after > with_it - (2 << 20)  # the kernel counts pages of each core in batches


def zone(folder: Path, microjoules: int, largest: int = 1_000_000) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{largest}\n")
    return folder


def test_joules_of_all_packages_across_the_end_of_a_counter(tmp_path: Path):
    first, second = zone(tmp_path / "intel-rapl:0", 999_000), zone(tmp_path / "intel-rapl:1", 10)
    zone(tmp_path / "intel-rapl:0:0", 5)  # a part of the first: counted there
    counters = meter.Rapl(tmp_path)
    zone(first, 499_999)  # 1,001 to its end and round to 0, then these
    zone(second, 510)
    assert counters.joules() == pytest.approx(0.5015)
    assert counters.joules() == 0.0


def test_without_a_counter_there_is_no_key(tmp_path: Path):
    with pytest.raises(OSError):
        meter.Rapl(tmp_path)
    if not torch.cuda.is_available():
        with pytest.raises(OSError):  # the package is there and its driver is not, or neither is
            meter.Nvml("cuda")
        assert meter.energy_of("cuda") is None


def test_the_peak_is_measured_once_by_whoever_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUITE_CACHE", str(tmp_path))
    monkeypatch.setattr(peak, "SECONDS", 0.01)
    found: list[float] = []
    both = [threading.Thread(target=lambda: found.append(peak.matmul_peak("cpu", torch.float32))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert found[0] == found[1] > 1e8
    [kept] = (cache.root() / "peaks").glob("*.json")
    assert json.loads(kept.read_text())["dtype"] == "float32"
    kept.write_text("{")
    assert peak.matmul_peak("cpu", torch.float32) > 1e8 and json.loads(kept.read_text())
    state = torch.get_rng_state()
    peak.matmul_peak("cpu", torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), state) and len(list(kept.parent.glob("*.json"))) == 2


def test_readings_are_a_small_part_of_the_time(tiny_root: Path):
    config = load_run([tiny_root / "llama.toml"], ["precision.dtype=float32"])
    used = meter.Meter(config, flops.of_row(TINY_LLAMA, 300, 383), World())
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < 0.2:
        count += "memory/peak_bytes" in used.read(100, 0.01)
    assert 1 <= count <= 1 + 0.4 / (meter.PATIENCE * 5e-6)  # a reading of /proc takes more than 5 microseconds
