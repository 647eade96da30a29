"""`suite tokenize`: text to token shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suite.base.cli import door, open_door

if TYPE_CHECKING:
    from suite.data.pack import Work

# On a cluster a task costs Ray a tenth of a second, so there it gets more to do.
DEFAULT_BLOCK_BYTES = {"local": 8 << 20, "ray": 64 << 20}

app = door("Encode text and cut it into rows: parquet shards, the same bytes for any number of workers.")


@app.command()
def main(
    in_dataset: Annotated[str, typer.Option("--in-dataset", "-i", help="stories:N?seed=S, a file, or a folder")],
    tokenizer: Annotated[Path, typer.Option("--tokenizer", "-t", help="folder with a tokenizer.json")],
    seq_len: Annotated[int, typer.Option("--seq-len", "-l", help="tokens in a row, <bos> included")],
    out_dir: Annotated[Path, typer.Option(help="folder for the shards and their manifest")],
    feature: Annotated[str, typer.Option("--feature", "-f", help="text column or field")] = "text",
    split: Annotated[str, typer.Option("--split", "-s", help="split, with slices: 'train[:10%]'")] = "train",
    as_: Annotated[str | None, typer.Option("--as", help="name of the split written; default: that of --split")] = None,
    overlap: Annotated[int, typer.Option(help="tokens that a row repeats from the one before")] = 0,
    chunk_size: Annotated[int, typer.Option("--chunk-size", "-c", help="rows in a shard")] = 200_000,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="documents in a call of the encoder")] = 50,
    layout: Annotated[str, typer.Option(help="rows of the joined stream, or documents, one per row")] = "stream",
    deduplicate: Annotated[bool, typer.Option("--deduplicate", help="of equal documents, keep the first")] = False,
    block_bytes: Annotated[
        int | None, typer.Option(help="text in a block, the unit of work and memory; default 8 MiB, on Ray 64")
    ] = None,
    workers: Annotated[int, typer.Option(help="threads, or tasks on Ray; 0: one for each core")] = 0,
    executor: Annotated[str, typer.Option(help="local, ray, or auto: ray when RAY_ADDRESS is set")] = "auto",
    separator: Annotated[str | None, typer.Option(help="what divides documents in a txt file")] = None,
    errors: Annotated[str, typer.Option(help="bytes that are not UTF-8: strict or replace")] = "strict",
) -> None:
    """Encode text and cut it into rows: parquet shards, the same bytes for any number of workers."""
    import time

    from suite.base.progress import bar
    from suite.base.store import found, under_root
    from suite.data import pack
    from suite.data import tokenizer as tokenizers
    from suite.data.encode import Shape
    from suite.data.source import Source, check_at_least, check_choice, check_errors
    from suite.executor import choose

    executor = choose(check_choice("executor", executor, ("auto", "local", "ray")))
    block_bytes = DEFAULT_BLOCK_BYTES[executor] if block_bytes is None else block_bytes
    check_at_least(1, batch_size=batch_size, block_bytes=block_bytes)
    check_at_least(0, workers=workers)
    source = Source(in_dataset, feature, split, separator, check_errors(errors))
    name = pack.split_name(split) if as_ is None else as_
    out_dir = under_root(out_dir)
    started = time.monotonic()
    with bar(f"tokenizing {name}", "blocks") as advance:
        tokens, written = pack.tokenize(
            source,
            tokenizers.load(found(tokenizer)),
            out_dir,
            Shape(seq_len, overlap, chunk_size, layout),
            way_of_working(executor, workers),
            name=name,
            batch_size=batch_size,
            block_bytes=block_bytes,
            deduplicate=deduplicate,
            on_progress=lambda now: advance(1, str(now), now.blocks_total),
        )
    entry = tokens.split(name)
    assert entry.text_bytes is not None  # only rows made elsewhere do not know it
    rate = f", {entry.text_bytes / 1e6 / (time.monotonic() - started):.1f} MB/s" if written else ": there already"
    num_shards = f"{len(entry.shards)} shard{'s' * (len(entry.shards) != 1)}"
    print(
        f"{out_dir}: {name}: {entry.documents:,} documents, {entry.tokens:,} tokens, {entry.rows:,} rows in "
        f"{num_shards}, {entry.dropped_tokens:,} tokens {'cut off' if layout == 'documents' else 'dropped at the tail'}"
        + f", {entry.duplicates:,} duplicates left out" * deduplicate
        + rate
    )


def way_of_working(executor: str, workers: int) -> Work:
    """One pass over this machine's processes, or two over a Ray cluster; `workers` 0 takes what there is."""
    from suite.data.pack import one_pass
    from suite.data.spill import two_passes
    from suite.executor import local, ray

    if executor == "ray":
        return two_passes(ray.map_anywhere(workers or None))
    workers = workers or local.num_cpus()
    return one_pass(local.map_in_threads(workers), local.map_in_order(workers))


if __name__ == "__main__":
    open_door(app)
