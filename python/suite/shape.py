"""`suite shape`: from a number of parameters to shapes that have about as many."""

from __future__ import annotations

from typing import Annotated

import typer

from suite.base.cli import door, open_door

app = door("Find model shapes near a number of parameters, as TOML.")


@app.command()
def main(
    params: Annotated[str, typer.Option(help="how many parameters: 250k, 1.5m, 2b or 250_000")],
    arch: Annotated[str, typer.Option(help="llama or mamba")] = "llama",
    vocab: Annotated[int, typer.Option(min=2, help="tokens in the vocabulary")] = 4096,
    tied: Annotated[
        bool | None, typer.Option("--tied/--untied", help="embeddings as one matrix, or two; else as the type does")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="how many shapes")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text")] = False,
) -> None:
    """Find valid shapes near a number of parameters, the best first and as TOML."""
    import json
    import re
    import sys

    import tomli_w

    from suite.base.errors import ConfigError
    from suite.models import shapes

    parts = re.fullmatch(r"([0-9_]*\.?[0-9_]+) ?([kmbKMB]?)", params.strip())
    if parts is None or not parts[1].strip("_."):
        raise ConfigError(f"--params: {params!r} is not a number such as 250k, 1.5m, 2b or 250_000")
    if arch not in ("llama", "mamba"):
        raise ConfigError(f"--arch: {arch!r} is not one of 'llama', 'mamba'")
    wanted = round(float(parts[1].replace("_", "")) * {"": 1, "k": 1e3, "m": 1e6, "b": 1e9}[parts[2].lower()])
    found = shapes.near(arch, wanted, vocab, tied, top)
    models = [shape.config.model_dump(exclude_unset=True) for shape in found]
    if as_json:
        rows = [
            {"model": model, "parameters": shape.parameters, "deviation": shape.deviation,
             "parameters_without_embeddings": shape.parameters_without_embeddings}
            for shape, model in zip(found, models, strict=True)
        ]  # fmt: skip
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    fields = [name for name in models[0] if name != "type"]
    table = Table(box=None, pad_edge=False)
    for name in ("parameters", "deviation", "w/o embed.", *fields):
        table.add_column(name, justify="right", no_wrap=True)
    for shape, model in zip(found, models, strict=True):
        counts = (f"{shape.parameters:,}", f"{shape.deviation:+.2%}", f"{shape.parameters_without_embeddings:,}")
        table.add_row(*counts, *(str(model[name]) for name in fields))
    Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)
    print(
        f"\n# {found[0].parameters:,} parameters at a vocabulary of {vocab:,}\n{tomli_w.dumps({'model': models[0]})}",
        end="",
    )


if __name__ == "__main__":
    open_door(app)
