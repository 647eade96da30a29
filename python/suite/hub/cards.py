"""README.md of what is published: YAML by which `load_dataset` and `from_pretrained` work, and a page for a reader.

The page between the two marks is ours and written anew each time; what its owner adds outside of them, or as further
YAML keys (a licence, say), stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

BEGIN, END = "<!-- suite: begin -->", "<!-- suite: end -->"


def tokens_card(repo: str, manifest: Mapping[str, Any]) -> str:
    """The dataset card of a token folder, from its manifest."""
    splits = {name: entry for name, entry in manifest["splits"].items() if entry["shards"]}
    files = [{"split": load_name(name), "path": _paths(name, entry)} for name, entry in splits.items()]
    tokenizer, seq_len, overlap = manifest["tokenizer"], manifest["seq_len"], manifest["overlap"]
    if manifest.get("layout", "stream") == "documents":
        rows = (
            "Each row is `<bos>` and one document, encoded and followed by `<eos>`,\n"
            f"cut after {seq_len} tokens or filled up with padding."
        )
    else:
        repeated = f", the first {overlap} of which end the row before" if overlap else ""
        rows = (
            "Documents are encoded one by one, each followed by `<eos>`, and joined into one stream in the order\n"
            "of the source. The stream is cut into rows,\n"
            f"each `<bos>` and {seq_len - 1} tokens of the stream{repeated}; a tail that fills no row is dropped."
        )
    first = load_name(next(iter(splits), "train"))
    table = "".join(
        f"| {load_name(name)} | {_counted(entry['documents'])} | {_counted(entry['tokens'])} | {entry['rows']:,} "
        f"| {len(entry['shards'])} | `{entry['source']}`, split `{entry['slice']}` |\n"
        for name, entry in manifest["splits"].items()
    )
    pad = f", pad {tokenizer['pad']}" if tokenizer["pad"] is not None else ""
    page = f"""# {repo.split("/")[-1]}

Tokens for training language models: rows of {seq_len} token ids, column `tokens`, {manifest["dtype"]}.

| split | documents | tokens | rows | shards | made from |
|---|---|---|---|---|---|
{table}
{rows}

Vocabulary: {tokenizer["vocab_size"]:,}; bos {tokenizer["bos"]}, eos {tokenizer["eos"]}{pad}.
The tokenizer lies in `tokenizer/`; SHA-256 of its content: `{tokenizer["sha256"]}`.
`manifest.json` has the SHA-256 of every shard. Made by `suite tokenize`.

```python
from datasets import load_dataset

rows = load_dataset("{repo}", split="{first}[:10%]").with_format("numpy")["tokens"]
```

Licence: that of the source, which these tokens can be turned back into; `license:` is for the owner to set."""
    yaml: dict[str, Any] = {"configs": [{"config_name": "default", "data_files": files}]} if files else {}
    return _card({**yaml, "tags": ["tokens", "suite"]}, page)


def tokenizer_card(repo: str, facts: Mapping[str, str]) -> str:
    """The card of a tokenizer's repo; `facts` are the lines of its table."""
    table = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    page = f"""# {repo.split("/")[-1]}

A tokenizer, trained by `suite train-tokenizer`.

| | |
|---|---|
{table}
```python
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo}")
```

Licence: `license:` is for the owner to set."""
    return _card({"library_name": "transformers", "tags": ["tokenizer", "suite"]}, page)


def place(name: str) -> str:
    """Where a shard of the folder lies in the repo."""
    return name if "/" in name else f"data/{name}"


def _paths(split: str, entry: Mapping[str, Any]) -> str | list[str]:
    paths = [place(shard["name"]) for shard in entry["shards"]]
    return pattern(split) if all(fnmatch(path, pattern(split)) for path in paths) else paths


def pattern(split: str) -> str:
    """Where the shards of a split lie in a repo: no other split's name fits."""
    return f"data/{split}-[0-9][0-9][0-9][0-9][0-9].parquet"


def load_name(split: str) -> str:
    """The split's name for load_dataset, which takes letters, digits, underscores and single dots."""
    return re.sub(r"\.(?!\w)", "_", split.replace("-", "_"))


def _counted(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _card(yaml: Mapping[str, Any], page: str) -> str:
    return _joined(yaml, f"{BEGIN}\n{page}\n{END}\n")


def _joined(yaml: Mapping[str, Any], text: str) -> str:
    from huggingface_hub import CardData

    return f"---\n{CardData(**yaml).to_yaml()}\n---\n\n{text}"


def merged(ours: str, theirs: str | None) -> str:
    """Our card with what the owner of the one on the Hub has added to it."""
    from huggingface_hub import RepoCard

    if theirs is None:
        return ours
    try:
        there, here = (RepoCard(text, ignore_metadata_errors=True) for text in (theirs, ours))
        kept = {key: value for key, value in there.data.to_dict().items() if key not in here.data.to_dict()}
    except ValueError:  # not YAML at all: there is nothing to keep
        return ours
    before, begin, rest = there.text.partition(BEGIN)
    if not begin:  # a page of the owner's own, or the empty one that the Hub makes
        before, after = "", f"\n{there.text.strip()}\n" if there.text.strip() else ""
    else:
        after = rest.partition(END)[2].lstrip("\n")
        before, after = before.lstrip("\n"), f"\n{after}" if after.strip() else ""
    page = here.text[here.text.index(BEGIN) :].rstrip("\n") + "\n"
    return _joined({**here.data.to_dict(), **kept}, before + page + after)
