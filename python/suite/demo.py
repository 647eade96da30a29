"""`suite demo`: a whole suite in minutes, from text to stories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suite.base.cli import door, open_door

app = door("Train a demo suite: tokenizer, tokens, Llama and Mamba models of two sizes, a story from each.")


@app.command()
def main(
    config: Annotated[Path, typer.Argument(help="the suite")] = Path("configs/demo.toml"),
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, for every member")] = None,
) -> None:
    """Train a demo suite: tokenizer, tokens, Llama and Mamba models of two sizes, a story from each."""
    import os
    import shutil
    import sys

    from suite.base.errors import SuiteError
    from suite.base.world import choose_device
    from suite.executor import local
    from suite.tokenize import way_of_working
    from suite.training import board, prepare, run
    from suite.training.suite import load_suite

    section, members = load_suite(config, overrides or [])
    cores = local.num_cpus()
    settled = [run.settle(member, run.choices(member, cores, choose_device)) for member in members]
    left = [member for member in settled if run.finished_step(member) is None]
    if left:
        for member in left:
            prepare.ensure(member, way_of_working("local", cores), lambda line: print(line, flush=True))
        with board.Board(left) as shown:
            outcomes = local.side_by_side(run.train_alone, left, section.processes, shown.refresh)
    else:
        print("every run is finished; nothing to do\n")
        outcomes = []
    board.print_summary(settled)
    failed = [f"{one.name}: {end.error}" for one, end in zip(left, outcomes, strict=False) if end.error]
    if failed:
        raise SuiteError("\n".join([*failed, "run the same command again to go on with what is left"]))
    largest = settled[0].folder
    steps = run.steps_in(largest)
    middle = steps[len(steps) // 2]
    suite = "suite" if shutil.which("suite") else os.path.relpath(Path(sys.executable).with_name("suite"))
    print(f'\nnext: {suite} generate {largest} "Once upon a time"      (add @{middle} for its step {middle})')


if __name__ == "__main__":
    open_door(app)
