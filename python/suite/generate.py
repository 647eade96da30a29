"""`suite generate`: text from a checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from suite.base.cli import door, open_door

app = door("Write text with a run's model: runs/demo/llama-500k, or runs/demo/llama-500k@64 for its step 64.")


@app.command()
def main(
    run: Annotated[str, typer.Argument(help="a run's folder, run@step, or any folder with a checkpoint")],
    prompt: Annotated[str, typer.Argument(help="how the text begins")] = "",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", help="at most so many tokens")] = 200,
    temperature: Annotated[float, typer.Option("--temperature", "-t", help="0 takes the likeliest token")] = 0.8,
    top_k: Annotated[int, typer.Option(help="choose among the k likeliest; 0: among all")] = 40,
    top_p: Annotated[float, typer.Option(help="of these, those that have so much of the probability")] = 1.0,
    chat: Annotated[bool, typer.Option("--chat", help="the prompt is a user's message, the text the answer")] = False,
    samples: Annotated[int, typer.Option(help="how many texts")] = 1,
    seed: Annotated[int, typer.Option(help="of the draw; the same seed gives the same text")] = 0,
) -> None:
    """Write text with a run's model."""
    from suite.base.errors import ConfigError
    from suite.base.store import open_sealed
    from suite.data import tokenizer as tokenizers
    from suite.data.chat import Chat
    from suite.training.address import checkpoint_at

    for name, value, least in (
        ("--max-new-tokens", max_new_tokens, 1),
        ("--samples", samples, 1),
        ("--top-k", top_k, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}; it must be {least} or more")
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"--temperature is {temperature}; it must be 0 or more")
    if not 0 < top_p <= 1:
        raise ConfigError(f"--top-p is {top_p}; it must be above 0 and at most 1")
    if not 0 <= seed < 2**63 - samples:
        raise ConfigError(f"--seed is {seed}; it must be from 0 to 2**63")
    prompt = prompt.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # as a terminal may pass it
    folder = checkpoint_at(run)
    manifest = open_sealed(folder, "checkpoint")
    encoder = tokenizers.load(folder)
    asked, end = [encoder.special.bos, *encoder.encode(prompt)], encoder.special.eos
    if chat:
        if "chat_template" not in manifest:
            raise ConfigError(f"--chat: {folder} was not trained on conversations (docs/fine-tuning.md)")
        talk = Chat(manifest["chat_template"], encoder)
        asked, end = talk.prompt([("user", prompt)]), talk.end

    from suite.models.hf import read_folder
    from suite.models.sampling import sample

    model, _ = read_folder(folder)
    for number in range(samples):
        ids = sample(
            model,
            asked,
            max_new_tokens=max_new_tokens,
            context=manifest["seq_len"] - 1,  # what it was trained on: a row without its last token
            eos=end,
            temperature=temperature,
            top_k=top_k or None,
            top_p=top_p,
            seed=seed + number,
        )
        print("" if chat else prompt, end="", flush=True)
        written: list[int] = []
        shown = ""
        for token in ids:
            written.append(token)
            text = encoder.decode(written)
            if not text.endswith("\ufffd"):  # half a character: wait for the rest
                print(text[len(shown) :], end="", flush=True)
                shown = text
        print()


if __name__ == "__main__":
    open_door(app)
