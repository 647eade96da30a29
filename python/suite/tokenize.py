"""`suite tokenize`: text to token shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suite.base.cli import door, open_door, unescaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from suite.data.config import CorpusConfig
    from suite.data.pack import Work
    from suite.data.source import TextSource

# On a cluster a task costs Ray a tenth of a second, so there it gets more to do.
DEFAULT_BLOCK_BYTES = {"local": 8 << 20, "ray": 64 << 20}

app = door("Encode text and cut it into rows: parquet shards, the same bytes for any number of workers.")


@app.command()
def main(
    toml: Annotated[
        list[str] | None,
        typer.Argument(help="files such as configs/data/tinystories.toml, and overrides such as tokens.seq_len=64"),
    ] = None,
    in_dataset: Annotated[
        str | None, typer.Option("--in-dataset", "-i", help="stories:N, files, or a Hub dataset")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", "-t", help="folder of a tokenizer, or a .model file")
    ] = None,
    seq_len: Annotated[int | None, typer.Option("--seq-len", "-l", help="tokens in a row, <bos> included")] = None,
    out_dir: Annotated[Path | None, typer.Option(help="folder for the shards and their manifest")] = None,
    config: Annotated[str | None, typer.Option(help="config of a dataset on the Hub that has several")] = None,
    feature: Annotated[str | None, typer.Option("--feature", "-f", help="text column or field; default: text")] = None,
    template: Annotated[str | None, typer.Option(help="columns as one text: '{question}\\n{answer}'")] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", "-s", help="split, or part: 'train[:10%]', 'train@hash[1%:]'; default: train"),
    ] = None,
    as_: Annotated[str | None, typer.Option("--as", help="name of the split written; default: that of --split")] = None,
    overlap: Annotated[
        int | None, typer.Option(help="tokens that a row repeats from the one before; default: 0")
    ] = None,
    chunk_size: Annotated[
        int | None, typer.Option("--chunk-size", "-c", help="rows in a shard; default: 200000")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", "-b", help="documents in a call of the tokenizers library; default: 50"),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="rows of the joined stream (default), or documents or chat, one per row")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="conversations, one per row: as --layout chat")] = False,
    chat_template: Annotated[
        str | None, typer.Option(help="plain (default), chatml, llama3, or '{role}: {content}{eos}'")
    ] = None,
    deduplicate: Annotated[
        bool | None, typer.Option("--deduplicate/--no-deduplicate", help="of equal documents, keep the first")
    ] = None,
    block_bytes: Annotated[
        int | None, typer.Option(help="text in a block, the unit of work and memory; default 8 MiB, on Ray 64")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="threads, or tasks on Ray; default: one for each core")] = None,
    executor: Annotated[str | None, typer.Option(help="local, ray, or auto: ray when RAY_ADDRESS is set")] = None,
    separator: Annotated[str | None, typer.Option(help="what divides documents in a txt file: '\\n\\n'")] = None,
    errors: Annotated[str | None, typer.Option(help="bytes that are not UTF-8: strict (default) or replace")] = None,
    out_repo: Annotated[str | None, typer.Option(help="publish the folder as this dataset repo, OWNER/NAME")] = None,
    public: Annotated[
        bool | None, typer.Option("--public/--private", help="a repo that is made is public; default: private")
    ] = None,
) -> None:
    """Encode text and cut it into rows: parquet shards, the same bytes for any number of workers.

    Flags alone, or a TOML that says the same and may hold mixtures and several splits; flags come before it.
    """
    from suite.base.errors import ConfigError
    from suite.base.store import found
    from suite.data.config import load_corpus
    from suite.data.pack import split_name

    needed = {"--in-dataset": in_dataset, "--tokenizer": tokenizer, "--seq-len": seq_len, "--out-dir": out_dir}
    if not toml and (missing := [flag for flag, value in needed.items() if value is None]):
        raise ConfigError(f"{', '.join(missing)}: missing; give them, or a TOML such as configs/data/tinystories.toml")
    if toml and as_ is not None and split is None:
        raise ConfigError("--as names what --split says, so give --split too; or splits.NAME=... for the TOML")
    written = None
    if split is not None or not toml:
        split = "train" if split is None else split
        written = {split_name(split).partition("@")[0] if as_ is None else as_: split}
    corpus = load_corpus(
        toml or [],
        {
            "source.dataset": in_dataset,
            "source.config": config,
            "source.feature": feature,
            "source.template": unescaped(template),
            "source.separator": unescaped(separator),
            "source.errors": errors,
            "splits": written,
            "tokenizer.folder": None if tokenizer is None else str(found(tokenizer).absolute()),
            "tokens.folder": None if out_dir is None else str(out_dir),
            "tokens.seq_len": seq_len,
            "tokens.overlap": overlap,
            "tokens.chunk_size": chunk_size,
            "tokens.batch_size": batch_size,
            "tokens.layout": "chat" if chat else layout,
            "tokens.chat_template": unescaped(chat_template),
            "tokens.deduplicate": deduplicate,
            "tokens.block_bytes": block_bytes,
            "tokens.repo": out_repo,
            "tokens.public": public,
            "num_workers": workers,
            "executor": executor,
        },
    )
    write(corpus, train_tokenizer=tokenizer is None)


def write(corpus: CorpusConfig, train_tokenizer: bool) -> None:
    """Writes the corpus' splits; its tokenizer first, where there is none and the config says how large it is."""
    import sys
    import time

    from suite.base.progress import bar
    from suite.data import pack
    from suite.data import tokenizer as tokenizers
    from suite.data.chat import rendered
    from suite.data.encode import Shape
    from suite.executor import choose
    from suite.hub import publish
    from suite.train_tokenizer import ensure

    if corpus.tokens.repo is not None:
        publish.check_repo(corpus.tokens.repo)  # before hours of work, not after
    executor = choose(corpus.executor)
    asked = corpus.tokens
    chat = asked.chat_template if asked.layout == "chat" else None
    work = way_of_working(executor, corpus.num_workers, chat)
    if train_tokenizer:
        ensure(corpus)
    encoder = tokenizers.load(corpus.tokenizer_folder)
    shape = Shape(asked.seq_len, asked.overlap, asked.chunk_size, "documents" if chat else asked.layout)
    for name in corpus.splits:
        source = corpus.text_source(name, counter(corpus, executor))
        started = time.monotonic()
        with bar(f"tokenizing {name}", "blocks") as advance:
            tokens, written = pack.tokenize(
                source,
                encoder,
                corpus.tokens_folder,
                shape,
                work,
                name=name,
                batch_size=asked.batch_size,
                block_bytes=asked.block_bytes or DEFAULT_BLOCK_BYTES[executor],
                deduplicate=asked.deduplicate,
                rendered=rendered(chat),
                on_progress=lambda now, advance=advance: advance(1, str(now), now.blocks_total),
            )
        entry = tokens.split(name)
        assert entry.text_bytes is not None  # only rows made elsewhere do not know it
        rate = f", {entry.text_bytes / 1e6 / (time.monotonic() - started):.1f} MB/s" if written else ": there already"
        num_shards = f"{len(entry.shards)} shard{'s' * (len(entry.shards) != 1)}"
        print(
            f"{corpus.tokens_folder}: {name}: {entry.documents:,} documents, {entry.tokens:,} tokens, "
            f"{entry.rows:,} rows in {num_shards}, {entry.dropped_tokens:,} tokens "
            + ("dropped at the tail" if asked.layout == "stream" else "cut off")
            + (
                f", {entry.chat.counted:,} of answers, {entry.chat.left_out:,} without one left out"
                if entry.chat
                else ""
            )
            + f", {entry.duplicates:,} duplicates left out" * asked.deduplicate
            + rate
        )
        if not entry.rows:
            print(
                f"warning: {corpus.tokens_folder}: {name}: no whole row of {asked.seq_len} tokens; it needs more text",
                file=sys.stderr,
            )
    if asked.repo is not None:
        folder = corpus.tokens_folder
        with publish.kept(folder):
            print(publish.said(publish.tokens(folder, asked.repo, public=asked.public), "dataset"))


def counter(corpus: CorpusConfig, executor: str) -> Callable[[str, TextSource], int]:
    """Counts the bytes of a source's text, on all workers: a config that says shares needs them before it begins."""
    from suite.base.progress import bar
    from suite.data.mix import num_bytes
    from suite.executor import local, ray

    workers = corpus.num_workers or local.num_cpus()
    work = ray.map_anywhere(corpus.num_workers or None) if executor == "ray" else local.map_in_threads(workers)

    def size(name: str, source: TextSource) -> int:
        with bar(f"counting {name}", "MB") as advance:
            return num_bytes(source, corpus.tokens.block_bytes or DEFAULT_BLOCK_BYTES[executor], work, advance)

    return size


def way_of_working(executor: str, workers: int, chat: str | None = None) -> Work:
    """One pass over this machine's processes, or two over a Ray cluster; `workers` 0 takes what there is.

    Of conversations, which `chat` is the template of, one pass here: they are few.
    """
    from suite.data.chat_rows import chat_pass
    from suite.data.pack import one_pass
    from suite.data.spill import two_passes
    from suite.executor import local, ray

    if chat is not None:
        return chat_pass(chat, local.map_in_order(workers or local.num_cpus()))
    if executor == "ray":
        return two_passes(ray.map_anywhere(workers or None))
    workers = workers or local.num_cpus()
    return one_pass(local.map_in_threads(workers), local.map_in_order(workers))


if __name__ == "__main__":
    open_door(app)
