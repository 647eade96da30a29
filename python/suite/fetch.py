"""`suite fetch`: published tokens from the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suite.base.cli import door, open_door

app = door("Download tokens that `suite tokenize --out-repo` published, every file checked.")


@app.command()
def main(
    repo: Annotated[str, typer.Argument(help="dataset repo, OWNER/NAME")],
    out_dir: Annotated[Path, typer.Option(help="folder for the shards and their manifest")],
    revision: Annotated[str, typer.Option(help="branch, tag or commit")] = "main",
) -> None:
    """Download tokens that `suite tokenize --out-repo` published, every file checked."""
    from suite.base.progress import bar
    from suite.base.store import under_root
    from suite.hub.fetch import fetch

    out_dir = under_root(out_dir)
    with bar("fetching", "MB") as advance:
        commit = fetch(repo, out_dir, revision, advance)
    print(f"{out_dir}: the tokens of {repo} at {commit[:12]}, every file checked")


if __name__ == "__main__":
    open_door(app)
