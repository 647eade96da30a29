"""`suite sweep`: the learning rate that suits each size, from runs at the smallest ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from suite.base.cli import door, open_door

if TYPE_CHECKING:
    from suite.training.config import RunConfig

app = door("Find the learning rate that suits each size: many short runs side by side, a best rate for each, a rule.")


@app.command()
def main(
    config: Annotated[list[str], typer.Argument(help="a TOML file for each size, and key=value for all of them")],
    rates: Annotated[
        str, typer.Option(help="LOW:HIGH:COUNT, equal factors apart; or rates with commas")
    ] = "1e-4:3e-2:9",
    steps: Annotated[int | None, typer.Option(help="updates of each run; by default the config's budget")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="runs for each rate")] = 1,
    name: Annotated[str, typer.Option(help="the runs lie in runs/sweep-NAME")] = "rates",
    larger: Annotated[
        list[str] | None, typer.Option("--for", help="a larger size to say a rate for; repeat it")
    ] = None,
    over: Annotated[
        str, typer.Option(help="what the rule goes by: parameters (without embeddings) or width")
    ] = "parameters",
    processes: Annotated[int, typer.Option(help="runs at a time; 0: one for each core")] = 0,
    coordinates: Annotated[str, typer.Option(help="widths with commas: the coordinate check of muP instead")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="say what would be run, and do nothing")] = False,
) -> None:
    """Find the learning rate that suits each size. The same command again goes on where it stopped."""
    from suite.base.errors import ConfigError
    from suite.base.world import choose_device
    from suite.executor import local
    from suite.training import run, sweep, sweep_table

    overrides = [part for part in config if "=" in part and not part.endswith(".toml")]
    files = [Path(part) for part in config if part not in overrides]
    if not files:
        raise ConfigError("no config: name a TOML file for each size, such as configs/stories/llama-50k.toml")
    if over not in ("parameters", "width"):
        raise ConfigError(f"--over {over}: expected parameters or width")
    if coordinates:
        _check_coordinates(files, overrides, coordinates, steps or 8)
        return
    asked = sweep.parse_rates(rates)
    cores = local.num_cpus()
    runs = [
        run.settle(each, run.choices(each, cores, choose_device))
        for each in sweep.runs_of(files, asked, seeds, steps, name, overrides)
    ]
    larger_runs = sweep_table.larger_of([Path(file) for file in larger or []], overrides)
    left = [each for each in runs if sweep.loss_of(each) is None]
    print(f"{len(runs)} runs, {len(left)} to be trained, under {runs[0].folder.parents[2]}", flush=True)
    if dry_run:
        for each in left:
            print(each.name)
        return
    if left:
        _train(left, processes or cores)
    found = sweep.results(sweep.tried(runs), over)
    rules = sweep.laws(found)
    about = {"rates": asked, "steps": steps, "seeds": seeds, "over": over, "overrides": overrides}
    sweep.write(runs[0].folder.parents[2], found, rules, about)
    sweep_table.show(found, rules, larger_runs, over)
    print(f"\nevery loss: {runs[0].folder.parents[2] / 'sweep.json'}")


def _train(left: list[RunConfig], processes: int) -> None:
    """Trains what is left, and says how it stands as runs end. Raises SuiteError when some could not be trained."""
    import multiprocessing

    from suite.base.errors import SuiteError
    from suite.executor import local
    from suite.tokenize import way_of_working
    from suite.training import prepare, sweep
    from suite.training.sweep_table import Standing

    made: set[Path] = set()
    for each in left:
        if (folder := each.path(each.data.tokens)) not in made:
            prepare.ensure(each, way_of_working("local", processes), lambda line: print(line, flush=True))
            made.add(folder)
    begun: Any = multiprocessing.get_context("spawn").Value("l", 0)
    with Standing(left, begun) as standing:
        shares = [(left, begun)] * min(processes, len(left))
        outcomes = local.side_by_side(sweep.work, shares, len(shares), lambda _: standing.refresh())
    failed = list(dict.fromkeys(outcome.error for outcome in outcomes if outcome.error))
    if missing := [each for each in left if sweep.loss_of(each) is None]:
        again = f"{len(missing)} runs are not finished; run the same command again to go on with them"
        raise SuiteError("\n".join([*failed, again]))


def _check_coordinates(files: list[Path], overrides: list[str], widths: str, steps: int) -> None:
    from suite.base.errors import ConfigError
    from suite.executor import local
    from suite.tokenize import way_of_working
    from suite.training import prepare, sweep_table
    from suite.training.config import load_run

    try:
        wanted = sorted({int(width) for width in widths.split(",")})
    except ValueError:
        wanted = []
    if len(wanted) < 2 or wanted[0] < 1:
        raise ConfigError(f"--coordinates {widths}: expected two or more widths with commas, such as 32,64,128")
    for file in files:
        config = load_run([file], overrides)
        prepare.ensure(config, way_of_working("local", local.num_cpus()), lambda line: print(line, flush=True))
        sweep_table.show_coordinates(config, wanted, steps)


if __name__ == "__main__":
    open_door(app)
