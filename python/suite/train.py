"""`suite train`: one run from TOML files and overrides."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suite.base.cli import door, open_door

app = door("Train a model from TOML: layers left to right, then key=value overrides.")


@app.command()
def main(
    config: Annotated[list[str], typer.Argument(help="TOML files and overrides such as model.num_hidden_layers=3")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress, only the last line")] = False,
) -> None:
    """Train a model from TOML. The same command again goes on where it stopped, or says that it is finished."""
    import functools

    from suite.executor import choose, local, ray
    from suite.training import prepare, run
    from suite.training.config import load_run

    overrides = [part for part in config if "=" in part and not part.endswith(".toml")]
    files = [Path(part) for part in config if part not in overrides]
    wanted = load_run(files, overrides)
    settled = run.settle(wanted, run.choices(wanted, local.num_cpus()))
    if (last := run.finished_step(settled)) is not None:
        print(f"{settled.folder}: finished at step {last}; nothing to do")
        return

    from suite.tokenize import way_of_working
    from suite.training.progress import Progress

    executor = choose(settled.executor, settled.num_workers)

    with Progress(settled, quiet) as progress:
        prepare.ensure(settled, way_of_working(executor, 0), progress.say)
        launch = ray.launch if executor == "ray" else local.launch
        train = functools.partial(run.train, on_record=progress.show)
        result = launch(train, settled, settled.num_workers, settled.device)
    floor = "" if result.floor is None else f", floor {result.floor:.4f}"
    print(f"{settled.folder}: step {result.steps}: validation loss {result.validation_loss:.4f} nats/token{floor}")


if __name__ == "__main__":
    open_door(app)
