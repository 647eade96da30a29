"""`suite diff`: the first step at which two runs differ, and by what."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suite.base.cli import door, open_door

app = door("Compare two runs: the first step at which they differ, and whether by rows, rates, weights or only bits.")


@app.command()
def main(
    a: Annotated[Path, typer.Argument(help="a run's folder, such as runs/demo/llama-50k")],
    b: Annotated[Path, typer.Argument(help="another one")],
    json_: Annotated[bool, typer.Option("--json", help="one JSON object, for machines")] = False,
) -> None:
    """Compare two runs. Exit code 0 when every common step is the same bits, 1 when they differ."""
    import json
    import sys
    from dataclasses import asdict

    from suite.base.store import found
    from suite.training.diff import difference
    from suite.training.run import stored_run

    runs = [stored_run(found(folder)) for folder in (a, b)]
    result = difference(*runs)
    if json_:
        print(json.dumps({**asdict(result), "parted": result.parted, "cause": result.cause}))
        sys.exit(result.parted is not None)
    print(f"{'steps':<16} {result.first:,} to {result.last:,} are in both")
    for heading, lines in (("config", result.config), ("environment", result.environment)):
        for number, line in enumerate(lines or ["the same"]):
            print(f"{heading if not number else '':<16} {line}")
    rows = result.rows_unknown or _from(result.rows)
    same = f"the same at {len(result.same_weights)} common checkpoints" if result.same_weights else "nothing to compare"
    for heading, line in (
        ("rows", rows),
        ("learning rate", _from(result.learning_rate)),
        ("training loss", _from(result.loss)),
        ("held-out loss", _from(result.validation)),
        ("weights", same if result.weights is None else f"differ at step {result.weights:,}"),
    ):
        print(f"{heading:<16} {line}")
    if result.parted is None:
        print("\nthe same bits at every common step")
        return
    why = {"numerics": "numerics only: rows, rates, initial weights and config are the same"}
    print(f"\nthey part at step {result.parted:,}: by {why.get(result.cause or '', result.cause)}")
    sys.exit(1)


def _from(step: int | None) -> str:
    return "the same" if step is None else f"differs from step {step:,} on"


if __name__ == "__main__":
    open_door(app)
