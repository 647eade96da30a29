"""`suite seal`: token parquet made elsewhere -> a token folder, without changing a file of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suite.base.cli import door, open_door

app = door("Adopt token parquet made elsewhere: check it, hash it, write its manifest.")


@app.command()
def main(
    folder: Annotated[Path, typer.Argument(help="folder with parquet files whose rows are lists of token ids")],
    tokenizer: Annotated[Path, typer.Option("--tokenizer", "-t", help="folder with the tokenizer that made them")],
    column: Annotated[str, typer.Option("--column", "-c", help="the column of ids, often input_ids")] = "tokens",
    split: Annotated[
        list[str] | None,
        typer.Option("--split", "-s", help="NAME=GLOB, repeatable; default: by file names, as load_dataset does"),
    ] = None,
) -> None:
    """Adopt token parquet made elsewhere: check it, hash it, write its manifest."""
    from suite.base.errors import TokensError
    from suite.base.progress import bar
    from suite.base.store import found
    from suite.data import adopt
    from suite.data import tokenizer as tokenizers

    globs: dict[str, str] = {}
    for each in split or []:
        name, equals, pattern = each.partition("=")
        if not equals or name in globs:
            raise TokensError(f"--split {each}: expected NAME=GLOB, each name once, as 'train=data/train-*.parquet'")
        globs[name] = pattern
    folder = found(folder)
    with bar("checking", "files") as advance:
        encoder = tokenizers.load(found(tokenizer))
        adopted = adopt.adopt(folder, column, encoder, globs, lambda total: advance(1, "", total))
    for name, entry in adopted.tokens.splits.items():
        files = f"{len(entry.shards)} file{'s' * (len(entry.shards) != 1)}"
        print(f"{folder}: {name}: {entry.rows:,} rows of {adopted.tokens.seq_len} tokens in {files}")
    for name in adopted.without_documents:
        print(f"note: {name}: no document stands whole between two <eos> of a row: evaluation reads the rows instead")


if __name__ == "__main__":
    open_door(app)
