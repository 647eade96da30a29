"""How near `suite plan` comes: its time and memory against members of the demo that are then trained.

Each member is probed, trained from nothing in a process of its own as `suite demo` does, and probed again. Figures are
predicted over true, of CPU seconds: on a machine with other work wall seconds say as much about that work, so theirs
are the mean of both probes, and only an indication. The meter's cost is its CPU time in a loop that sleeps, over that
of a step.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from rows import Row, arguments, show

from suite.base.tracker import METRICS, read_records
from suite.executor import local
from suite.tokenize import way_of_working
from suite.training import prepare, run
from suite.training.config import RunConfig
from suite.training.plan import Costs, Plan, plan_of, seconds_left
from suite.training.suite import load_suite

DEMO = Path(__file__).parents[1] / "configs" / "demo.toml"


def cpu_costs(config: RunConfig) -> Costs:
    from suite.training import probe

    return probe.measure(config, time.process_time)


def meter_seconds(config: RunConfig) -> float:
    """CPU seconds that a reading takes on average where steps take 5 ms: over three seconds of them."""
    import torch

    from suite.base.world import World
    from suite.training import flops, meter

    torch.set_num_threads(1)
    used = meter.Meter(config, flops.of_row(config.model, config.data.vocab_size, config.data.seq_len - 1), World())

    def mean_seconds(work: Callable[[], object]) -> float:
        spent, count, until = 0.0, 0, time.perf_counter() + 3
        while time.perf_counter() < until:
            time.sleep(0.005)
            began = time.process_time()
            work()
            spent, count = spent + time.process_time() - began, count + 1
        return spent / count

    return mean_seconds(lambda: used.read(1000, 0.005)) - mean_seconds(lambda: None)


def in_a_process(function: Callable[[RunConfig], Any], config: RunConfig) -> tuple[Any, float, float]:
    """What it returns, its CPU seconds and its wall seconds, from the start of the process on."""

    def cpu_seconds() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    before, began = cpu_seconds(), time.perf_counter()
    [outcome] = local.side_by_side(function, [config], 1, lambda begun: None)
    if outcome.error:
        raise SystemExit(outcome.error)
    return outcome.result, cpu_seconds() - before, time.perf_counter() - began


def member_rows(config: RunConfig) -> list[Row]:
    plan: Plan = plan_of(config)

    cpu, costs = predicted(config, plan, cpu_costs)
    wall_before, _ = predicted(config, plan, run.measure)
    _, true_cpu, true_wall = in_a_process(run.train_alone, config)
    cpu_after, _ = predicted(config, plan, cpu_costs)
    wall_after, _ = predicted(config, plan, run.measure)
    peaks = [record.get("memory/peak_bytes", 0) for record in read_records(config.folder / METRICS)]
    name = config.name.rpartition("/")[2]
    return [
        Row(f"{name}: CPU seconds, predicted before / true", cpu / true_cpu, "ratio", "<= 1.25"),
        Row(f"{name}: CPU seconds, true / predicted before", true_cpu / cpu, "ratio", "<= 1.25"),
        Row(f"{name}: CPU seconds, predicted after / true", cpu_after / true_cpu, "ratio"),
        Row(f"{name}: wall seconds, predicted / true", mean([wall_before, wall_after]) / true_wall, "ratio"),
        Row(f"{name}: peak memory, predicted / true", costs.peak_bytes / max(peaks), "ratio"),
        Row(f"{name}: meter's share of a step", 100 * meter_seconds(config) / costs.step, "%", "<= 0.1"),
        Row(f"{name}: mean MFU", mean(mfu(config)), "ratio"),
    ]


def predicted(config: RunConfig, plan: Plan, function: Callable[[RunConfig], Costs]) -> tuple[float, Costs]:
    costs = in_a_process(function, config)[0]
    return seconds_left(config, plan, costs) or 0.0, costs


def mfu(config: RunConfig) -> list[float]:
    return [one["train/mfu"] for one in read_records(config.folder / METRICS) if "train/mfu" in one]


def main() -> None:
    options = arguments(
        __doc__ or "",
        tokens="a budget in place of the demo's 1.6 million",
        member="one of the demo's, such as llama-50k",
    )
    with tempfile.TemporaryDirectory(prefix="suite-bench-plan-") as root:
        budget = [f"budget.tokens={options.tokens}"] if options.tokens else []
        _, members = load_suite(DEMO, [f"root={root}", *budget])
        settled = [run.settle(one, run.choices(one, local.num_cpus(), lambda: "cpu")) for one in members]
        prepare.ensure(settled[0], way_of_working("local", 1), lambda line: None)
        wanted = options.member or ("llama-50k" if options.quick else "")
        chosen = [one for one in settled if wanted in ("", one.name.rpartition("/")[2])]
        rows = [row for config in chosen for row in member_rows(config)]
        show(rows, options.json)


if __name__ == "__main__":
    main()
