"""A published token folder back from the Hub: what is missing is downloaded, checked, and the manifest comes last.

What comes from the Hub is not trusted: names are checked before a file is made, contents against the manifest and
against the hash that the Hub lists.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from suite.base import hub
from suite.base.errors import HubError, SealError, TokensError
from suite.base.store import MANIFEST, check_format, locked, sha256_of, sync, write_atomically
from suite.hub.publish import TOKENIZER_FILES, listed, read
from suite.hub.upload import Item, listing

BYTES_PER_REQUEST = 8 << 20
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)


def fetch(repo: str, folder: Path, revision: str = "main", advance: Callable[[float], None] = lambda mb: None) -> str:
    """Makes `folder` the token folder that the repo holds, and returns the commit. `advance` hears of megabytes.

    Run again after a cut it fetches what is missing. Raises HubError, and TokensError when the folder holds others.
    """
    api = hub.api()
    commit, there = hub.patiently(repo, lambda: listing(api, repo, "dataset", revision))
    if MANIFEST not in there:
        raise HubError(f"{repo}: no {MANIFEST}, so it holds no tokens of ours")
    content = hub.patiently(repo, lambda: read(repo, "dataset", commit, MANIFEST))
    files = _files(repo, content, there)
    with locked(folder):
        if (folder / MANIFEST).is_file() and (folder / MANIFEST).read_bytes() != content:
            raise TokensError(f"{folder}: holds other tokens than {repo}; fetch into another folder")
        for path, (name, sha256) in files.items():
            _fetch(f"{repo}@{commit}/{path}", folder / name, sha256, there[path], advance)
        write_atomically(folder / MANIFEST, content.decode())
    return commit


def _files(repo: str, content: bytes, there: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Path in the repo -> name in the folder, and the SHA-256 that the manifest has for it."""
    try:
        manifest = json.loads(content)
        check_format(Path(MANIFEST), manifest, "tokens")
        files: dict[str, tuple[str, str | None]] = {
            path: (entry["name"], entry["sha256"]) for path, entry in listed(manifest).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, SealError):
        raise HubError(f"{repo}: its {MANIFEST} is not one of tokens that this version reads") from None
    for path in there:
        folder, _, name = path.rpartition("/")
        if folder == "tokenizer" and any(fnmatch(name, known) for known in TOKENIZER_FILES):
            files[path] = (path, None)
    for path, (name, _) in files.items():
        if not all(_NAME.fullmatch(part) for part in name.split("/")):
            raise HubError(f"{repo}: its manifest lists {name!r}, which is no name for a file of tokens")
        if path not in there:
            raise HubError(f"{repo}: does not hold {path}, which its manifest lists")
    return files


def _fetch(where: str, to: Path, sha256: str | None, entry: Any, advance: Callable[[float], None]) -> None:
    if to.is_file() and Item.of(where, to).is_there(entry):
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    temporary = to.with_name(f".{to.name}.{secrets.token_hex(4)}.tmp")
    try:
        hub.patiently(where, lambda: _download(where, temporary, advance))
        if not Item.of(where, temporary).is_there(entry) or sha256 not in (None, sha256_of(temporary)):
            raise HubError(f"{where}: what came differs from what the manifest and the Hub say; try again")
        sync(temporary)
        temporary.replace(to)
    finally:
        temporary.unlink(missing_ok=True)


def _download(where: str, to: Path, advance: Callable[[float], None]) -> None:
    from huggingface_hub import HfFileSystem

    store = HfFileSystem()
    with (
        store.open(f"datasets/{where}", "rb", block_size=BYTES_PER_REQUEST, cache_type="readahead") as source,
        to.open("wb") as file,
    ):
        while piece := source.read(BYTES_PER_REQUEST):
            assert isinstance(piece, bytes)
            file.write(piece)
            advance(len(piece) / 1e6)
