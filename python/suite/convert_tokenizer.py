"""`suite convert-tokenizer`: a SentencePiece model as tokenizer.json, or any tokenizer with a pad token."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suite.base.cli import door, open_door

app = door("Write a tokenizer anew: a SentencePiece model as tokenizer.json, any one with a pad token.")


@app.command()
def main(
    tokenizer: Annotated[Path, typer.Argument(help="folder of a tokenizer, or a SentencePiece .model file")],
    out_dir: Annotated[Path, typer.Option(help="another folder, for the result")],
    pad_token: Annotated[str | None, typer.Option(help="add this token, like '<pad>', for padding")] = None,
) -> None:
    """Write a tokenizer anew: a SentencePiece model as tokenizer.json, any one with a pad token."""
    import sys

    from suite.base.store import found, under_root
    from suite.data import kinds

    notes: list[str] = []
    out_dir = under_root(out_dir)
    made = kinds.adapt(found(tokenizer), out_dir, pad_token, notes.append)
    print(f"{out_dir}: {made.vocab_size} tokens, pad id {'none' if made.special.pad is None else made.special.pad}")
    for note in notes:
        print(note, file=sys.stderr)


if __name__ == "__main__":
    open_door(app)
