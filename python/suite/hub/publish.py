"""Token folders and tokenizers to the Hub and back: which file lies where, and what is checked.

A token folder becomes a dataset repo: its shards under data/, the rest as it lies, the manifest unchanged, so that a
copy is checked with the manifest that came with it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from suite.base import hub
from suite.base.errors import HubError, TokensError
from suite.base.store import MANIFEST, check_format, read_json
from suite.hub import cards
from suite.hub.upload import Item, Uploaded, check_repo, listing, upload

__all__ = ["Uploaded", "check_repo", "kept", "said", "tokenizer", "tokens"]

CARD = "README.md"
TOKENIZER_FILES = (
    "tokenizer*.json",
    "tokenizer.model",
    "*.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)


def tokens(folder: Path, repo: str, *, public: bool) -> Uploaded:
    """Publishes every sealed split of a token folder, its tokenizer, manifest and card, and proves that they are there.

    Raises TokensError for a folder that is not sealed or differs from its manifest, HubError when the Hub does not
    take it. The folder is only read.
    """
    if not (folder / MANIFEST).is_file():
        raise TokensError(f"{folder}: not sealed (no {MANIFEST}), so it is not published; tokenize first")
    content = (folder / MANIFEST).read_bytes()
    manifest = read_json(folder / MANIFEST)
    check_format(folder / MANIFEST, manifest, "tokens")
    items = [_listed(folder, place, entry) for place, entry in sorted(listed(manifest).items())]
    items += [Item.of(f"tokenizer/{path.name}", path) for path in _tokenizer_files(folder / "tokenizer")]
    items.append(Item.of(MANIFEST, content))
    there, stale = _what_is_there(repo, "dataset", {item.path for item in items}, manifest)
    card = cards.merged(cards.tokens_card(repo, manifest), there)
    items.append(Item.of(CARD, card.encode()))
    message = f"Tokens: {', '.join(sorted(manifest['splits']))}"
    return upload(repo, "dataset", items, message, public=public, stale=stale)


def tokenizer(folder: Path, repo: str, facts: Mapping[str, str], *, public: bool) -> Uploaded:
    """Publishes a tokenizer's folder as a model repo that AutoTokenizer loads. `facts` go into its card."""
    items = [Item.of(path.name, path) for path in _tokenizer_files(folder)]
    there, _ = _what_is_there(repo, "model", set(), None)
    card = cards.merged(cards.tokenizer_card(repo, facts), there)
    return upload(repo, "model", [*items, Item.of(CARD, card.encode())], "Tokenizer", public=public)


def said(done: Uploaded, kind: str) -> str:
    """One line on what was done, for a door to print."""
    where = f"{'datasets/' if kind == 'dataset' else ''}{done.repo}"
    shown = "private" if done.private else "public"
    files = f"{len(done.sent)} file{'s' * (len(done.sent) != 1)} sent" if done.sent else "nothing to send"
    return f"Hub: {where} ({shown}) at {done.commit[:12]}: {files}, all read back and compared"


@contextlib.contextmanager
def kept(folder: Path) -> Iterator[None]:
    """Adds to what the Hub refuses that the work itself is done, and how to go on."""
    try:
        yield
    except HubError as error:
        raise HubError(f"{error}; {folder} is finished and kept, the same command again publishes it") from None


def listed(manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The files that a token folder's manifest lists, by where they lie in the repo."""
    files: dict[str, dict[str, Any]] = {}
    for entry in manifest["splits"].values():
        files |= {cards.place(shard["name"]): shard for shard in entry["shards"]}
        files |= {entry["index"]["name"]: entry["index"]} if entry.get("index") else {}
        files |= {entry["chat"]["answers"]["name"]: entry["chat"]["answers"]} if entry.get("chat") else {}
    return files


def _listed(folder: Path, place: str, entry: Mapping[str, Any]) -> Item:
    path = folder / entry["name"]
    if not path.is_file():
        raise TokensError(f"{path}: missing, though the manifest lists it; tokenize again")
    item = Item.of(place, path)
    if item.sha256 != entry["sha256"]:
        raise TokensError(f"{path}: SHA-256 differs from the manifest's: damaged; tokenize again")
    return item


def _tokenizer_files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("*") if any(fnmatch(path.name, known) for known in TOKENIZER_FILES))
    if not any(path.name in ("tokenizer.json", "tokenizer.model") for path in found):
        raise TokensError(f"{folder}: no tokenizer there to publish")
    return found


def _what_is_there(
    repo: str, kind: str, ours: set[str], manifest: Mapping[str, Any] | None
) -> tuple[str | None, list[str]]:
    """The card on the Hub, and the shards of an earlier publication that these tokens no longer have.

    Raises HubError for shards of neither: `load_dataset` would read them as rows of a split of ours.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    api = hub.api()

    def look() -> tuple[str | None, list[str]]:
        try:
            commit, there = listing(api, repo, kind)
        except RepositoryNotFoundError:
            return None, []
        card = read(repo, kind, commit, CARD).decode() if CARD in there else None
        if manifest is None:
            return card, []
        earlier: set[str] = set()
        if MANIFEST in there:
            try:
                earlier = set(listed(json.loads(read(repo, kind, commit, MANIFEST))))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise HubError(f"its {MANIFEST} is not one of tokens; publish to another repo") from None
        shards = [cards.pattern(name) for name in manifest["splits"]]
        others = [path for path in there if path not in ours and any(fnmatch(path, one) for one in shards)]
        if foreign := sorted(set(others) - earlier):
            raise HubError(
                f"holds {foreign[0]}, which these tokens do not: publish to another repo, or delete it there"
            )
        return card, sorted(path for path in earlier - ours if path in there)

    return hub.patiently(repo, look)


def read(repo: str, kind: str, commit: str, path: str) -> bytes:
    """A small file's content, without a copy in the client's cache."""
    from huggingface_hub import HfFileSystem

    prefix = "datasets/" if kind == "dataset" else ""
    content = HfFileSystem().cat_file(f"{prefix}{repo}@{commit}/{path}")
    assert isinstance(content, bytes)
    return content
