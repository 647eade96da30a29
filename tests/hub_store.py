"""What a look-alike of the Hugging Face Hub keeps: repos of commits of files, in a folder that outlives the server.

    FOLDER/blobs/<sha256>                   every content once, regular and LFS alike
    FOLDER/repos/datasets/OWNER/NAME.json   branches, tags, commits (each with its whole table of files)

Names of things are the Hub's: a regular file is known by its git blob id, an LFS file by its SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# What the Hub's .gitattributes sends to LFS, and above this size everything.
_LFS = re.compile(
    r".*\.(7z|arrow|bin|bz2|ckpt|ftz|gz|h5|joblib|lz4|mlmodel|model|msgpack|npy|npz|onnx|ot|parquet|pb|pickle|pkl|pt|pth"
    r"|rar|safetensors|tar|tflite|tgz|xz|zip|zst)"
)
LFS_BYTES = 10 << 20
ROOT_FILE = ".gitattributes"


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class File:
    """One file of a commit. `oid` is the git blob id, for LFS that of the pointer."""

    size: int
    oid: str
    sha256: str
    lfs: bool

    @staticmethod
    def of(content: bytes) -> File:
        return File(len(content), git_blob_id(content), hashlib.sha256(content).hexdigest(), False)

    @staticmethod
    def pointer(sha256: str, size: int) -> File:
        text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return File(size, git_blob_id(text.encode()), sha256, True)

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass
class Commit:
    parent: str | None
    summary: str
    description: str
    date: float
    files: dict[str, File]


@dataclass
class Repo:
    type: str  # model, dataset or space
    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def sha(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit's own id names."""
        named = self.branches.get(revision) or self.tags.get(revision)
        return named or (revision if revision in self.commits else None)

    def files(self, revision: str = "main") -> dict[str, File]:
        sha = self.sha(revision)
        return self.commits[sha].files if sha else {}

    def history(self, revision: str) -> list[tuple[str, Commit]]:
        """Commits from the newest to the first."""
        found, sha = [], self.sha(revision)
        while sha:
            found.append((sha, self.commits[sha]))
            sha = self.commits[sha].parent
        return found


def takes_lfs(path: str, size: int) -> bool:
    return size > LFS_BYTES or _LFS.fullmatch(path) is not None


def listed(repo: Repo, sha: str, under: str, recursive: bool, expand: bool) -> list[dict[str, Any]]:
    """Files and folders of a commit as the Hub lists them, sorted by path."""
    commit, rows = repo.commits[sha], {}
    last = {"lastCommit": {"id": sha, "title": commit.summary, "date": date(commit.date)}} if expand else {}
    prefix = f"{under.strip('/')}/" if under else ""
    for path, file in commit.files.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
            folder = prefix + "/".join(parts[:depth])
            rows[folder] = {"type": "directory", "path": folder, "size": 0, "oid": git_blob_id(folder.encode()), **last}
        if recursive or len(parts) == 1:
            rows[path] = {"type": "file", "path": path, "size": file.size, "oid": file.oid, **last}
            if file.lfs:
                rows[path]["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
    return [rows[path] for path in sorted(rows)]


def date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(seconds))


class Store:
    """All repos. `lock` is held by whoever changes one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.repos: dict[tuple[str, str], Repo] = {}
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        for path in sorted((folder / "repos").rglob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            for commit in content["commits"].values():
                commit["files"] = {name: File(**file) for name, file in commit["files"].items()}
            content["commits"] = {sha: Commit(**commit) for sha, commit in content["commits"].items()}
            self.repos[content["type"], content["id"]] = Repo(**content)

    def create(self, type_: str, id_: str, private: bool) -> Repo:
        with self.lock:
            repo = self.repos[type_, id_] = Repo(type_, id_, private)
            attributes = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
            self.put(attributes)
            self.commit(repo, "main", {ROOT_FILE: File.of(attributes)}, "initial commit")
            return repo

    def add(self, type_: str, id_: str, folder: Path, private: bool) -> str:
        """A commit that makes the repo hold exactly what the folder does. Returns the commit's id."""
        with self.lock:
            repo = self.repos.get((type_, id_)) or self.create(type_, id_, private)
            files = {ROOT_FILE: next(file for file in repo.files().values())}
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    name, content = path.relative_to(folder).as_posix(), path.read_bytes()
                    sha256 = self.put(content)
                    lfs = takes_lfs(name, len(content))
                    files[name] = File.pointer(sha256, len(content)) if lfs else File.of(content)
            if files != repo.files():
                self.commit(repo, "main", files, f"files of {folder.name}")
            return repo.branches["main"]

    def commit(self, repo: Repo, branch: str, files: dict[str, File], summary: str, description: str = "") -> str:
        with self.lock:
            parent = repo.branches.get(branch)
            commit = Commit(parent, summary, description, time.time(), files)
            about = [repo.type, repo.id, len(repo.commits), parent, summary, {p: f.etag for p, f in files.items()}]
            sha = hashlib.sha1(json.dumps(about, sort_keys=True).encode()).hexdigest()
            repo.commits[sha] = commit
            repo.branches[branch] = sha
            self.save(repo)
            return sha

    def save(self, repo: Repo) -> None:
        path = self._path(repo)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(repo)), encoding="utf-8")
        temporary.replace(path)

    def delete(self, repo: Repo) -> None:
        with self.lock:
            del self.repos[repo.type, repo.id]
            self._path(repo).unlink()

    def _path(self, repo: Repo) -> Path:
        return self.folder / "repos" / f"{repo.type}s" / f"{repo.id}.json"

    def blob(self, sha256: str) -> Path:
        return self.folder / "blobs" / sha256

    def has(self, sha256: str) -> bool:
        return self.blob(sha256).is_file()

    def put(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self.receive(sha256, [content])
        return sha256

    def receive(self, name: str, pieces: Iterable[bytes]) -> str:
        """Writes a blob, or a part of one, under its name when the last byte is there. Returns its SHA-256."""
        temporary = self.folder / "blobs" / f".{name.replace('/', '.')}.{threading.get_ident()}"
        digest = hashlib.sha256()
        try:
            with temporary.open("wb") as file:
                for piece in pieces:
                    digest.update(piece)
                    file.write(piece)
            temporary.replace(self.blob(name))
        finally:
            temporary.unlink(missing_ok=True)
        return digest.hexdigest()

    def join(self, sha256: str, parts: list[str]) -> None:
        with self.blob(f".joined.{sha256}").open("wb") as whole:
            for part in parts:
                with self.blob(part).open("rb") as file:
                    shutil.copyfileobj(file, whole)
        for part in parts:
            self.blob(part).unlink()
        self.blob(f".joined.{sha256}").replace(self.blob(sha256))
