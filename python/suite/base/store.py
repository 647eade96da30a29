"""Folders that are real or not: sealed by a manifest that is written last.

A folder is sealed when its manifest.json stands. The manifest lists the size and SHA-256 of every other file, so a
half-written, half-copied or edited folder is refused by name. No rename of folders is assumed, because object
stores have none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from suite.base.errors import ConfigError, SealError

MANIFEST = "manifest.json"
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for a submitted command, and for no other
FORMAT = 1


def root_of(root: str | None) -> Path:
    """The folder that holds a piece of work: as configured, or $SUITE_ROOT, or the current folder.

    Raises ConfigError for a relative one inside a submitted job: the current folder there is a copy that Ray removes.
    """
    folder = Path(root or os.environ.get("SUITE_ROOT") or ".")
    if not folder.is_absolute() and _IN_A_JOB in os.environ:
        raise ConfigError(
            f"root {folder}: inside a Ray job a relative root is a copy that Ray throws away; set SUITE_ROOT to a "
            """folder that all nodes see: --runtime-env-json '{"env_vars": {"SUITE_ROOT": "/shared/suite"}, ...}'"""
        )
    return folder


def under_root(path: Path) -> Path:
    """Where a command writes what its user calls `path`: under the root, unless it is absolute."""
    return path if path.is_absolute() else root_of(None) / path


def found(path: Path) -> Path:
    """Where a command reads what its user calls `path`: as typed when it is there, else under the root."""
    return path if path.exists() else under_root(path)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Makes a file, or a folder's list of names, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file whole: a reader sees the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")  # a PID is not unique across nodes
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises SealError when the file is not JSON: only a damaged or foreign file is not."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SealError(f"{path}: not valid JSON ({error}); the file is damaged, make it again") from None


def seal(folder: Path, kind: str, about: Mapping[str, Any]) -> None:
    """Writes the manifest of a finished folder. Everything in it is synced first, so the manifest never lies."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MANIFEST and not path.name.startswith("."):
            sync(path)
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    write_json(folder / MANIFEST, {"format": FORMAT, "kind": kind, **about, "files": files})


def is_sealed(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def open_sealed(folder: Path, kind: str, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of a sealed folder, after comparing every file with it (sizes only if not `verify`).

    Raises SealError for a folder that is missing, unsealed, of another kind, or differs from its manifest.
    """
    if not folder.is_dir():
        raise SealError(f"{folder}: no such folder")
    if not is_sealed(folder):
        raise SealError(
            f"{folder}: not sealed (no {MANIFEST}): the job that writes it is still running, or died; "
            "run it again to finish it"
        )
    manifest = read_json(folder / MANIFEST)
    check_format(folder / MANIFEST, manifest, kind)
    for name, entry in manifest.get("files", {}).items():
        path = folder / name
        if not path.is_file():
            raise SealError(f"{path}: missing, though {MANIFEST} lists it; make the folder again")
        if path.stat().st_size != entry.get("bytes"):
            raise SealError(f"{path}: {path.stat().st_size} bytes, the manifest says {entry.get('bytes')}; damaged")
        if verify and (found := sha256_of(path)) != entry.get("sha256"):
            raise SealError(f"{path}: SHA-256 is {found}, the manifest says {entry.get('sha256')}; damaged")
    return manifest


def check_format(path: Path, manifest: Any, kind: str) -> None:
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else type(manifest).__name__
        raise SealError(f"{path}: holds {found!r}, expected a manifest of {kind!r}")
    if manifest.get("format") != FORMAT:
        raise SealError(f"{path}: format {manifest.get('format')}, this version reads {FORMAT}")
    files = manifest.get("files", {})
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise SealError(f"{path}: its list of files is damaged; make the folder again")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time in a folder; waits for the other. Gone with the process, however it ends."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def hold(folder: Path) -> IO[str]:
    """Takes the folder for as long as the returned file is open. Raises SealError when another process has it."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise SealError(f"{folder}: another process is at work on it; wait for it, or end it") from None
    return file
