"""`suite seen`: where tokens hold a text, and which steps of a run read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suite.base.cli import door, open_door

app = door("Find a text in tokens: its documents and rows, and with --run the steps that read them.")


@app.command()
def main(
    text: Annotated[str, typer.Argument(help="what to look for, as it stands in the documents")],
    tokens: Annotated[Path | None, typer.Option(help="folder of tokens; default: those of --run")] = None,
    split: Annotated[str, typer.Option("--split", "-s", help="split to look in")] = "train",
    run: Annotated[Path | None, typer.Option(help="a run's folder: which of its steps read the text")] = None,
    limit: Annotated[int, typer.Option(help="show at most so many places; 0: all")] = 20,
    json_: Annotated[bool, typer.Option("--json", help="a JSON object per place, for machines")] = False,
) -> None:
    """Find a text in tokens: its documents and rows, and with --run the steps that read them."""
    import itertools
    import json
    import sys

    from suite.base.errors import ConfigError
    from suite.base.store import found
    from suite.data import shards, stream
    from suite.data import tokenizer as tokenizers
    from suite.training.run import steps_reading, stored_run

    if tokens is None and run is None:
        raise ConfigError("where to look? --tokens FOLDER, or --run FOLDER for the tokens that a run reads")
    config = stored_run(found(run)) if run else None
    folder = found(tokens) if tokens else config.path(config.data.tokens) if config else Path()
    there = shards.read(folder)
    read_by = steps_reading(config, there) if config and split == "train" else None
    encoder = tokenizers.load(folder / "tokenizer")
    there.check_tokenizer(encoder)
    places = stream.places_of(text, there, split, encoder)
    shown = 0
    for place in itertools.islice(places, limit or None):
        rows = list(place.rows)
        steps = None if read_by is None else sorted({step for row in rows for step in read_by(row)})
        shown += 1
        if json_:
            print(json.dumps({"document": place.document, "rows": rows, "steps": steps}))
            continue
        parts = [] if place.document is None else [f"document {place.document:,}"]
        parts.append(_numbers("row", rows) if rows else "in no row: the tail of the stream is dropped")
        if steps is not None and rows:
            parts.append(f"read in {_numbers('step', steps)}" if steps else "not read yet")
        print(", ".join(parts))
    more = sum(1 for _ in places)
    total = f"{shown + more:,} place{'s' * (shown + more != 1)}" if shown else "nowhere"
    dropped = there.split(split).dropped_tokens
    unread = f"; {dropped:,} tokens are in no row and were not searched" if dropped else ""
    left = f", the first {shown} shown; --limit 0 shows all" if more else ""
    print(f"{folder}: {split}: {total}{left}{unread}", file=sys.stderr if json_ else sys.stdout)
    if not shown:
        sys.exit(1)  # as grep does


def _numbers(what: str, numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"{what} {numbers[0]:,}"
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{what}s {numbers[0]:,} to {numbers[-1]:,}"
    return f"{what}s {', '.join(f'{number:,}' for number in numbers)}"


if __name__ == "__main__":
    open_door(app)
