"""`suite plan`: what a run or a suite will take, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suite.base.cli import door, open_door

if TYPE_CHECKING:
    from suite.training.config import RunConfig
    from suite.training.plan import Plan

app = door("Say what a run or a suite will take: parameters, FLOPs, checkpoints, disk, memory, time.")


@app.command()
def main(
    config: Annotated[list[str], typer.Argument(help="TOML files of a run, or one of a suite, and key=value")],
    probe: Annotated[bool, typer.Option(help="measure steps for about three seconds, to predict time")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text")] = False,
) -> None:
    """Say what a run or a suite will take. Writes nothing."""
    import json
    import sys

    from suite.base.config import load_layers
    from suite.base.progress import clock
    from suite.executor import choose
    from suite.train import settle
    from suite.training import outline
    from suite.training.config import load_run
    from suite.training.plan import makespan, plan_of
    from suite.training.suite import load_suite

    overrides = [part for part in config if "=" in part and not part.endswith(".toml")]
    files = [Path(part) for part in config if part not in overrides]
    is_suite = len(files) == 1 and "suite" in load_layers(files)[0]
    if is_suite:
        section, members = load_suite(files[0], overrides)
        executor, processes = "local", section.processes
    else:
        members = [load_run(files, overrides)]
        executor, processes = choose(members[0].executor, members[0].num_workers), 1
    settled = [settle(member, executor) for member in members]
    plans = [plan_of(member) for member in settled]
    if probe:
        plans = probed(settled, plans, processes)
    seconds = [plan.seconds for plan in plans if plan.seconds is not None]
    total = makespan(seconds, processes) if probe and len(seconds) == len(plans) else None
    if as_json:
        table = {"runs": [plan.to_json() for plan in plans], "processes": processes, "seconds": total}
        print(json.dumps(table, indent=2))
    elif is_suite:
        from rich.console import Console

        Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(outline.table_of(plans))
        if total is not None:
            print(f"\n{clock(round(total))} with {processes} at a time, after the tokens are made")
    else:
        for heading, line in outline.outline(settled[0], plans[0], executor):
            print(f"{heading:<12} {line}")


def probed(settled: list[RunConfig], plans: list[Plan], processes: int) -> list[Plan]:
    """The plans with costs and seconds, of runs that are not finished. What will run side by side is measured so."""
    from dataclasses import replace

    from suite.base.errors import SuiteError
    from suite.base.progress import bar
    from suite.executor import local
    from suite.training.plan import Costs, seconds_left
    from suite.training.run import measure

    # Workers on CPUs share this machine, those on GPUs have one each.
    workers = [
        0 if plan.from_step == plan.steps else 1 if config.device == "cuda" else config.num_workers
        for config, plan in zip(settled, plans, strict=True)
    ]
    items = [config for config, number in zip(settled, workers, strict=True) for _ in range(number)]
    at_once = max(processes, *workers)
    done = 0
    with bar("probing", "runs") as advance:

        def show(begun: list[bool]) -> None:
            nonlocal done
            now = max(0, sum(begun) - at_once)
            advance(now - done, "", len(items))
            done = now

        outcomes = local.side_by_side(measure, items, at_once, show)
    failed = [f"{config.name}: {end.error}" for config, end in zip(items, outcomes, strict=True) if end.error]
    if failed:
        raise SuiteError("\n".join([*dict.fromkeys(failed), "--no-probe plans without measuring"]))
    found = iter(outcomes)
    ended: list[Plan] = []
    for config, plan, number in zip(settled, plans, workers, strict=True):
        measured: list[Costs] = [next(found).result for _ in range(number)]
        if measured:
            slowest = max(measured, key=lambda costs: costs.step)
            ended.append(replace(plan, costs=slowest, seconds=seconds_left(config, plan, slowest)))
        else:
            ended.append(replace(plan, seconds=0.0))
    return ended


if __name__ == "__main__":
    open_door(app)
