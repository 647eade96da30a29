"""`suite train-tokenizer`: a tokenizer from text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suite.base.cli import door, open_door, unescaped

if TYPE_CHECKING:
    from suite.data.config import CorpusConfig

app = door("Train a tokenizer: a GPT-2 style byte-level BPE, one like a reference, or a SentencePiece model.")


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
    separator: Annotated[str | None, typer.Option(help="what divides documents in a txt file: '\\n\\n'")] = None,
    errors: Annotated[str | None, typer.Option(help="bytes that are not UTF-8: strict (default) or replace")] = None,
    kind: Annotated[
        str | None, typer.Option(help="byte-level-bpe (default), sentencepiece-unigram or sentencepiece-bpe")
    ] = None,
    reference_tokenizer: Annotated[
        Path | None, typer.Option(help="folder of a tokenizer to follow in all but its vocabulary, like Llama 2's")
    ] = None,
    num_samples: Annotated[int | None, typer.Option(help="train on the first so many documents")] = None,
    character_coverage: Annotated[
        float | None,
        typer.Option(help="share of characters with a token of their own, default 0.9995; not for byte-level-bpe"),
    ] = None,
    byte_fallback: Annotated[
        bool | None, typer.Option(help="a token for each byte (default), so that no text has <unk>; for sentencepiece")
    ] = None,
    out_repo: Annotated[str | None, typer.Option(help="publish the folder as this model repo, OWNER/NAME")] = None,
    public: Annotated[
        bool | None, typer.Option("--public/--private", help="a repo that is made is public; default: private")
    ] = None,
) -> None:
    """Train a tokenizer: a GPT-2 style byte-level BPE, one like a reference, or a SentencePiece model."""
    from suite.base.errors import ConfigError
    from suite.base.store import found
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
            "source.template": unescaped(template),
            "source.separator": unescaped(separator),
            "source.errors": errors,
            "splits": None if split is None else {"train": split},
            "tokenizer.split": split,
            "tokenizer.vocab_size": vocab_size,
            "tokenizer.kind": kind,
            "tokenizer.reference_tokenizer": None if reference_tokenizer is None else str(found(reference_tokenizer)),
            "tokenizer.num_samples": num_samples,
            "tokenizer.character_coverage": character_coverage,
            "tokenizer.byte_fallback": byte_fallback,
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
    from suite.base.store import found
    from suite.data import kinds, tokenizer
    from suite.data.config import TOKENIZER
    from suite.data.mix import texts_of
    from suite.executor import choose
    from suite.hub import publish
    from suite.tokenize import counter

    asked, folder, vocab_size = corpus.tokenizer, corpus.tokenizer_folder, corpus.tokenizer.vocab_size or 4096
    reference = found(Path(asked.reference_tokenizer)) if asked.reference_tokenizer else None
    recipe = kinds.Recipe(
        vocab_size, asked.kind, reference, asked.num_samples, asked.character_coverage, asked.byte_fallback
    )
    recipe.check()
    if asked.repo is not None:
        publish.check_repo(asked.repo)
    source = corpus.text_source(TOKENIZER, counter(corpus, choose(corpus.executor)))
    notes: list[str] = []
    with bar("training on", "MB") as advance:
        trained = kinds.train(texts_of(source), recipe, advance, notes.append)
    if tokenizer.is_there(folder) and tokenizer.load(folder).sha256 != trained.sha256:
        notes.append(
            f"note: {folder}: another tokenizer was there and is replaced; tokens made with it keep their own copy"
        )
    tokenizer.save(trained, folder)
    print(f"{folder}: {trained.vocab_size} tokens")
    if trained.vocab_size < vocab_size:
        notes.append(
            f"warning: {vocab_size} tokens were asked for; the text has too few repeated pairs for more than "
            f"{trained.vocab_size}"
        )
    for note in notes:
        print(note, file=sys.stderr)
    if asked.repo is not None:
        facts = {
            "trained on": f"`{source.identity()}`, split `{source.split}`",
            "tokens": f"{trained.vocab_size:,}",
            "SHA-256 of the content": f"`{trained.sha256}`",
        }
        with publish.kept(folder):
            print(publish.said(publish.tokenizer(folder, asked.repo, facts, public=asked.public), "model"))


def ensure(corpus: CorpusConfig) -> None:
    """Trains the corpus' tokenizer where there is none and the config says how large it is to be."""
    from suite.base.store import locked
    from suite.data import tokenizer

    folder = corpus.tokenizer_folder
    if corpus.tokenizer.vocab_size is not None and not tokenizer.is_there(folder):
        with locked(folder):
            if not tokenizer.is_there(folder):
                train(corpus)


if __name__ == "__main__":
    open_door(app)
