"""`suite train`: one run from TOML files and overrides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suite.base.cli import door, open_door

if TYPE_CHECKING:
    from suite.training.config import RunConfig

app = door("Train a model from TOML: layers left to right, then key=value overrides.")


@app.command()
def main(
    config: Annotated[list[str], typer.Argument(help="TOML files and overrides such as model.num_hidden_layers=3")],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress, only the last line")] = False,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="the first two steps end to end, removed again: is the config good?")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="say what would happen, and do nothing")] = False,
) -> None:
    """Train a model from TOML. The same command again goes on where it stopped, or says that it is finished."""
    from suite.executor import choose, local, ray_train
    from suite.training import prepare, run
    from suite.training.config import load_run

    overrides = [part for part in config if "=" in part and not part.endswith(".toml")]
    files = [Path(part) for part in config if part not in overrides]
    wanted = load_run(files, overrides)
    executor = choose(wanted.executor, wanted.num_workers)
    settled = settle(wanted, executor)
    if (last := run.finished_step(settled)) is not None:
        print(f"{settled.folder}: finished at step {last}; nothing to do")
        return
    if dry_run:
        from suite.training.outline import outline
        from suite.training.plan import plan_of

        for heading, line in outline(settled, plan_of(settled), executor):
            print(f"{heading:<12} {line}")
        return

    from suite.tokenize import DEFAULT_BLOCK_BYTES, way_of_working
    from suite.training.progress import Progress

    with Progress(settled, quiet) as progress:
        prepare.ensure(
            settled,
            way_of_working(executor, 0, prepare.chat_template(settled)),
            progress.say,
            DEFAULT_BLOCK_BYTES[executor],
        )
        launch = ray_train.launch if executor == "ray" else local.launch
        if sanity:
            from suite.training.sanity import check, shortened

            said = check(
                shortened(settled), lambda one: launch(run.train, one, one.num_workers, one.device, progress.show)
            )
            print("\n".join(f"{settled.folder}: sanity: {line}" for line in said))
            return
        result = launch(run.train, settled, settled.num_workers, settled.device, progress.show)
    floor = "" if result.floor is None else f", floor {result.floor:.4f}"
    waited = f"; ended early, {settled.early_stopping.patience} evaluations without a better one" * result.early
    print(
        f"{settled.folder}: step {result.steps}: validation loss {result.validation_loss:.4f} nats/token{floor}{waited}"
    )


def settle(config: RunConfig, executor: str) -> RunConfig:
    """The config with what it leaves open chosen for the machines that it will run on."""
    from suite.base import world
    from suite.executor import cluster, local, ray
    from suite.training import run

    if executor != "ray" or not cluster():
        asked = config.ray.device() if executor == "ray" else None
        return run.settle(config, run.choices(config, local.num_cpus(), lambda: asked or world.choose_device()))
    # A node's cores are not this machine's: a worker has the threads that it is given CPUs for, by default one.
    cores = config.num_workers * max(1, int(config.ray.resources_per_worker.get("CPU", 1)))
    return run.settle(config, run.choices(config, cores, lambda: config.ray.device() or ray.choose_device()))


if __name__ == "__main__":
    open_door(app)
