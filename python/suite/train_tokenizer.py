"""`suite train-tokenizer`: a tokenizer from text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from suite.base.cli import door, open_door

app = door("Train a tokenizer: a GPT-2 style byte-level BPE, one like a reference, or a SentencePiece model.")


@app.command()
def main(
    in_dataset: Annotated[str, typer.Option("--in-dataset", "-i", help="stories:N, files, or a Hub dataset")],
    out_dir: Annotated[Path, typer.Option(help="folder for the tokenizer; AutoTokenizer loads it")],
    config: Annotated[str | None, typer.Option(help="config of a dataset on the Hub that has several")] = None,
    feature: Annotated[str, typer.Option("--feature", "-f", help="text column or field")] = "text",
    split: Annotated[str, typer.Option("--split", "-s", help="split, with slices: 'train[:10%]'")] = "train",
    vocab_size: Annotated[int, typer.Option("--vocab-size", "-v", help="tokens, at least 259")] = 4096,
    separator: Annotated[str | None, typer.Option(help="what divides documents in a txt file")] = None,
    errors: Annotated[str, typer.Option(help="bytes that are not UTF-8: strict or replace")] = "strict",
    kind: Annotated[
        str, typer.Option(help="byte-level-bpe, sentencepiece-unigram or sentencepiece-bpe")
    ] = "byte-level-bpe",
    reference_tokenizer: Annotated[
        Path | None, typer.Option(help="folder of a tokenizer to follow in all but its vocabulary, like Llama 2's")
    ] = None,
    num_samples: Annotated[int | None, typer.Option(help="train on the first so many documents")] = None,
    character_coverage: Annotated[
        float, typer.Option(help="share of the text's characters with a token of their own; not for byte-level-bpe")
    ] = 0.9995,
    byte_fallback: Annotated[
        bool, typer.Option(help="a token for each byte, so that no text has <unk>; for sentencepiece kinds")
    ] = True,
    out_repo: Annotated[str | None, typer.Option(help="publish the folder as this model repo, OWNER/NAME")] = None,
    public: Annotated[bool, typer.Option("--public", help="a repo that is made is public, not private")] = False,
) -> None:
    """Train a tokenizer: a GPT-2 style byte-level BPE, one like a reference, or a SentencePiece model."""
    import sys

    from suite.base.progress import bar
    from suite.base.store import found, under_root
    from suite.data import kinds, tokenizer
    from suite.data.source import Source, check_errors
    from suite.hub import publish

    reference = found(reference_tokenizer) if reference_tokenizer else None
    recipe = kinds.Recipe(vocab_size, kind, reference, num_samples, character_coverage, byte_fallback)
    recipe.check()
    source = Source(in_dataset, feature, split, separator, check_errors(errors), config)
    notes: list[str] = []
    if out_repo is not None:
        publish.check_repo(out_repo)
    with bar("training on", "MB") as advance:
        trained = kinds.train(source.texts(), recipe, advance, notes.append)
    out_dir = under_root(out_dir)
    tokenizer.save(trained, out_dir)
    print(f"{out_dir}: {trained.vocab_size} tokens")
    if trained.vocab_size < vocab_size:
        notes.append(
            f"warning: {vocab_size} tokens were asked for; the text has too few repeated pairs for more than "
            f"{trained.vocab_size}"
        )
    for note in notes:
        print(note, file=sys.stderr)
    if out_repo is not None:
        facts = {
            "trained on": f"`{source.identity()}`, split `{split}`",
            "tokens": f"{trained.vocab_size:,}",
            "SHA-256 of the content": f"`{trained.sha256}`",
        }
        with publish.kept(out_dir):
            print(publish.said(publish.tokenizer(out_dir, out_repo, facts, public=public), "model"))


if __name__ == "__main__":
    open_door(app)
