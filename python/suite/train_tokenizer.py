"""`suite train-tokenizer`: a byte-level BPE from text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suite.base.cli import door, open_door

if TYPE_CHECKING:
    from suite.data.config import CorpusConfig

app = door("Train a GPT-2 style byte-level BPE tokenizer: <bos>=0 <eos>=1 <pad>=2.")


@app.command()
def main(
    toml: Annotated[
        list[str] | None,
        typer.Argument(help="files such as configs/data/tinystories.toml, and overrides"),
    ] = None,
    in_dataset: Annotated[
        str | None, typer.Option("--in-dataset", "-i", help="stories:N, files, or a Hub dataset")
    ] = None,
    out_dir: Annotated[Path | None, typer.Option(help="folder for the tokenizer; AutoTokenizer loads it")] = None,
    config: Annotated[str | None, typer.Option(help="config of a dataset on the Hub that has several")] = None,
    feature: Annotated[str | None, typer.Option("--feature", "-f", help="text column or field; default: text")] = None,
    template: Annotated[str | None, typer.Option(help="columns as one text: '{question}\\n{answer}'")] = None,
    split: Annotated[
        str | None, typer.Option("--split", "-s", help="split, or part: 'train[:10%]'; default: train")
    ] = None,
    vocab_size: Annotated[
        int | None, typer.Option("--vocab-size", "-v", help="tokens, at least 259; default: 4096")
    ] = None,
    separator: Annotated[str | None, typer.Option(help="what divides documents in a txt file")] = None,
    errors: Annotated[str | None, typer.Option(help="bytes that are not UTF-8: strict (default) or replace")] = None,
    out_repo: Annotated[str | None, typer.Option(help="publish the folder as this model repo, OWNER/NAME")] = None,
    public: Annotated[
        bool | None, typer.Option("--public/--private", help="a repo that is made is public; default: private")
    ] = None,
) -> None:
    """Train a GPT-2 style byte-level BPE tokenizer: <bos>=0 <eos>=1 <pad>=2."""
    from suite.base.errors import ConfigError
    from suite.data.config import load_corpus

    needed = {"--in-dataset": in_dataset, "--out-dir": out_dir}
    if not toml and (missing := [flag for flag, value in needed.items() if value is None]):
        raise ConfigError(f"{', '.join(missing)}: missing; give them, or a TOML such as configs/data/tinystories.toml")
    corpus = load_corpus(
        toml or [],
        {
            "source.dataset": in_dataset,
            "source.config": config,
            "source.feature": feature,
            "source.template": template,
            "source.separator": separator,
            "source.errors": errors,
            "splits": None if split is None else {"train": split},
            "tokenizer.split": split,
            "tokenizer.vocab_size": vocab_size,
            "tokenizer.repo": out_repo,
            "tokenizer.public": public,
            "tokenizer.folder": None if out_dir is None else str(out_dir),
        },
    )
    train(corpus)


def train(corpus: CorpusConfig) -> None:
    """Trains the corpus' tokenizer and writes it to its folder."""
    import sys

    from suite.base.progress import bar
    from suite.data import tokenizer
    from suite.data.config import TOKENIZER
    from suite.data.mix import texts_of
    from suite.executor import choose
    from suite.hub import publish
    from suite.tokenize import counter

    repo = corpus.tokenizer.repo
    if repo is not None:
        publish.check_repo(repo)
    folder, vocab_size = corpus.tokenizer_folder, corpus.tokenizer.vocab_size or 4096
    source = corpus.text_source(TOKENIZER, counter(corpus, choose(corpus.executor)))
    with bar("training on", "MB") as advance:
        trained = tokenizer.train(texts_of(source), vocab_size, advance)
    tokenizer.save(trained, folder)
    print(f"{folder}: {trained.vocab_size} tokens")
    if trained.vocab_size < vocab_size:
        print(
            f"warning: {vocab_size} tokens were asked for; the text has too few repeated pairs for more than "
            f"{trained.vocab_size}",
            file=sys.stderr,
        )
    if repo is not None:
        facts = {
            "trained on": f"`{source.identity()}`, split `{source.split}`",
            "tokens": f"{trained.vocab_size:,}",
            "SHA-256 of the content": f"`{trained.sha256}`",
        }
        with publish.kept(folder):
            print(publish.said(publish.tokenizer(folder, repo, facts, public=corpus.tokenizer.public), "model"))


def ensure(corpus: CorpusConfig) -> None:
    """Trains the corpus' tokenizer where there is none and the config says how large it is to be."""
    from suite.base.store import locked

    folder = corpus.tokenizer_folder
    if corpus.tokenizer.vocab_size is not None and not (folder / "tokenizer.json").is_file():
        with locked(folder):
            if not (folder / "tokenizer.json").is_file():
                train(corpus)


if __name__ == "__main__":
    open_door(app)
