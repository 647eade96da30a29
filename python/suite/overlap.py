"""`suite overlap`: documents that two splits share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suite.base.cli import door, open_door

app = door("Count the documents of a held-out split that are in the training split too.")


@app.command()
def main(
    tokens: Annotated[Path, typer.Argument(help="folder of tokens")],
    split: Annotated[str, typer.Option("--split", "-s", help="the held-out split")] = "validation",
    against: Annotated[str, typer.Option(help="the split that must not hold its documents")] = "train",
    show: Annotated[int, typer.Option(help="print the beginnings of so many shared documents")] = 3,
) -> None:
    """Count the documents of a held-out split that are in the training split too."""
    import sys

    from suite.base.errors import TokensError
    from suite.base.store import found
    from suite.data import shards, stream
    from suite.data import tokenizer as tokenizers

    folder = found(tokens)
    there = shards.read(folder)
    for name in (split, against):
        there.split(name)
    shared, documents = stream.overlap(there, split, against)
    if not documents:
        raise TokensError(f"{folder}: split {split!r} has no document that is whole in its rows; it needs more text")
    # The tail that fills no row is dropped, and with it the end of the last documents.
    cut = {name: (there.split(name).documents or 0) - len(stream.whole(there, name)) for name in (split, against)}
    for name, number in cut.items():
        if number:
            print(f"note: {name}: {number:,} not whole in the rows, so not compared", file=sys.stderr)
    if not shared:
        print(f"{folder}: none of the {documents:,} documents of {split} is in {against}")
        return
    encoder = tokenizers.load(folder / "tokenizer")
    held_out = there.documents(split)
    for number in shared[:show]:
        begin = encoder.decode(held_out[number][:40])
        print(f"{split} document {number:,}: {' '.join(begin.split())[:100]!r}")
    print(
        f"{folder}: {len(shared):,} of the {documents:,} documents of {split} are in {against} too "
        f"({len(shared) / documents:.2%})"
    )
    sys.exit(1)


if __name__ == "__main__":
    open_door(app)
