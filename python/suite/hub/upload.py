"""A repo is made to hold given files: what differs is sent, and what the Hub then holds is read back and compared.

Comparing, sending and proving are one loop. A file counts as there when the Hub lists it with the same size and hash
(SHA-256 for LFS files, the git blob id for the others), so a second run sends nothing, a run that was cut goes on, a
commit whose answer was lost is not made again, and the loop's end is the proof.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suite.base import hub
from suite.base.errors import HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FILES_PER_COMMIT = 100  # the Hub asks for no more
_SAME_SECRET = 10 << 20  # text that is looked through for the token; larger files are shards


@dataclass(frozen=True)
class Item:
    """A file as the repo is to have it. `source` is where it lies, or the content itself."""

    path: str
    source: Path | bytes
    size: int
    sha256: str
    blob_id: str

    @staticmethod
    def of(path: str, source: Path | bytes) -> Item:
        size = len(source) if isinstance(source, bytes) else source.stat().st_size
        sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
        for piece in _pieces(source):
            sha256.update(piece)
            git.update(piece)
        return Item(path, source, size, sha256.hexdigest(), git.hexdigest())

    def is_there(self, listed: Any) -> bool:
        """Whether the Hub's entry for this path, or None, is this very content."""
        if listed is None or listed.size != self.size:
            return False
        return listed.lfs.sha256 == self.sha256 if listed.lfs else listed.blob_id == self.blob_id


def _pieces(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


@dataclass(frozen=True)
class Uploaded:
    """What was done. `sent` are the paths that the Hub did not hold before."""

    repo: str
    commit: str
    sent: tuple[str, ...]
    private: bool


def check_repo(repo: str) -> None:
    """Raises HubError when the name is not OWNER/NAME, no token is set, or the Hub does not accept it.

    Called before long work whose result is to be published. A Hub that cannot be reached now is only a warning: it may
    be back by then.
    """
    from huggingface_hub.utils import validate_repo_id

    if repo.count("/") != 1:
        raise HubError(f"{repo}: a repo on the Hub is OWNER/NAME")
    with hub.speaking(repo):
        validate_repo_id(repo)
    if hub.token() is None:
        raise HubError(f"{repo}: no token to publish with; {hub.LOG_IN}")
    try:
        hub.api().whoami()
    except Exception as error:
        with hub.speaking(repo):
            if not hub.may_pass(error):
                raise
        print(f"warning: {repo}: {hub.explain(error)}", file=sys.stderr)


def upload(
    repo: str, kind: str, items: Sequence[Item], message: str, *, public: bool, stale: Collection[str] = ()
) -> Uploaded:
    """Makes the repo's main branch hold `items`, and none of the `stale` paths. `kind` is model or dataset.

    A repo that is not there is made, private unless `public`. Raises HubError when it cannot be done or proven.
    """
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    _check_for_secrets(repo, items)
    api = hub.api()
    sent: set[str] = set()

    def made_to_hold() -> Uploaded:
        private = _ensure(api, repo, kind, public)
        commit, missing, gone = _difference(api, repo, kind, items, stale)
        if missing or gone:
            sent.update(item.path for item in missing)
            _send(api, repo, kind, missing, gone, message)
            commit, missing, gone = _difference(api, repo, kind, items, stale)
        if wrong := [item.path for item in missing] + gone:
            raise HubError(f"the Hub does not hold what was sent: {', '.join(wrong[:3])}; run the command again")
        return Uploaded(repo, commit, tuple(sorted(sent)), private)

    return hub.patiently(repo, made_to_hold)


def _difference(
    api: HfApi, repo: str, kind: str, items: Sequence[Item], stale: Collection[str]
) -> tuple[str, list[Item], list[str]]:
    """The head of the main branch, the items that it lacks, and the stale paths that it has."""
    commit, there = listing(api, repo, kind)
    missing = [item for item in items if not item.is_there(there.get(item.path))]
    return commit, missing, [path for path in stale if path in there]


def _ensure(api: HfApi, repo: str, kind: str, public: bool) -> bool:
    """Makes the repo if it is not there. Returns whether it is private."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return bool(api.repo_info(repo, repo_type=kind).private)
    except RepositoryNotFoundError:
        api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        return not public


def listing(api: HfApi, repo: str, kind: str, revision: str = "main") -> tuple[str, dict[str, Any]]:
    """The commit that a revision names, and the files there by path (huggingface_hub.RepoFile)."""
    commit = api.repo_info(repo, repo_type=kind, revision=revision).sha
    assert commit is not None
    tree = api.list_repo_tree(repo, recursive=True, revision=commit, repo_type=kind)
    return commit, {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}


def _send(api: HfApi, repo: str, kind: str, items: list[Item], gone: list[str], message: str) -> None:
    """Commits of at most FILES_PER_COMMIT files; what is to go goes with the last."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    groups = [items[i : i + FILES_PER_COMMIT] for i in range(0, len(items), FILES_PER_COMMIT)] or [[]]
    for number, group in enumerate(groups, 1):
        operations: list[Any] = [CommitOperationAdd(item.path, _for_the_client(item.source)) for item in group]
        if number == len(groups):
            operations += [CommitOperationDelete(path) for path in gone]
        part = f" ({number} of {len(groups)})" if len(groups) > 1 else ""
        api.create_commit(repo, operations, commit_message=message + part, repo_type=kind)


def _for_the_client(source: Path | bytes) -> str | bytes:
    return source if isinstance(source, bytes) else str(source)


def _check_for_secrets(repo: str, items: Sequence[Item]) -> None:
    secret = hub.token()
    if secret is None:
        raise HubError(f"{repo}: no token to publish with; {hub.LOG_IN}")
    for item in items:
        if item.size < _SAME_SECRET and secret.encode() in b"".join(_pieces(item.source)):
            raise HubError(f"{repo}: {item.path} holds your Hub token, so nothing was sent; take it out of that file")
