"""Decoded rows, once per machine: a flat file of little-endian ids that every run there maps and none holds in memory.

A folder of the cache is named by a hash of what was decoded, so the same tokens are the same folder whoever made them
and wherever they lie. One process decodes under an exclusive lock while others wait; a rename seals the file, so a
process that is killed half-way leaves only what the next one clears away. Whoever maps rows holds a shared lock for as
long, and above $SUITE_CACHE_GB the folders used longest ago make room, never one that is in use.

Where: $SUITE_CACHE, else $XDG_CACHE_HOME/suite, else ~/.cache/suite, else, where none can be written, a private folder
among the temporary files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import math
import mmap
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from suite.base.errors import ConfigError, SealError, TokensError
from suite.base.store import locked, read_json, sync, write_json

DEFAULT_GB = 500.0  # what the cache may keep
WORTH_A_WORD = 1 << 30  # bytes whose decoding takes long enough to say so
_ROWS, _LOCK, _TRASH = "rows.bin", ".lock", ".trash-"


class _Held(mmap.mmap):
    """A map that keeps its folder's shared lock for as long as any array looks into it."""

    lock: IO[bytes]


def root() -> Path:
    """The cache's folder, made when it is missing. Raises TokensError when it cannot be written."""
    if asked := os.environ.get("SUITE_CACHE"):
        folder = Path(asked).absolute()
        if not _usable(folder):
            raise TokensError(f"{folder}: cannot be written; set SUITE_CACHE to a folder that can")
        return folder
    usual = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "suite"  # noqa: PTH111
    if usual.is_absolute() and _usable(usual):  # without a home `~` stays as it is, where Path would raise
        return usual
    # Names there are anyone's to take: the folder must be ours and nobody else's.
    folder = Path(tempfile.gettempdir()) / f"suite-cache-{os.getuid()}"
    with contextlib.suppress(OSError):
        folder.mkdir(mode=0o700)
    found = folder.lstat() if os.path.lexists(folder) else None
    if found is None or not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise TokensError(
            f"{folder}: not a private folder of this user; set SUITE_CACHE to a folder for decoded tokens"
        )
    return folder


def _usable(folder: Path) -> bool:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


def mapped(
    key: str, shape: tuple[int, int], dtype: np.dtype, what: str, fill: Callable[[np.ndarray], None]
) -> np.ndarray:
    """The rows of this key, read-only; `fill` writes them into an array of `shape` when they are not there.

    `what` names them in messages. Raises TokensError when there is no room for them, and whatever `fill` raises.
    """
    size = shape[0] * shape[1] * dtype.itemsize
    if not size:
        return np.frombuffer(b"", dtype).reshape(shape)
    tokens = root() / "tokens"
    tokens.mkdir(mode=0o700, exist_ok=True)
    folder = tokens / key
    path = folder / _ROWS
    while True:
        lock = _lock(folder, fcntl.LOCK_SH)
        if _is_whole(path, size):
            os.utime(folder / _LOCK)  # used last, now
            with path.open("rb") as file:
                held = _Held(file.fileno(), size, access=mmap.ACCESS_READ)
            held.lock = lock
            return np.frombuffer(held, dtype).reshape(shape)
        lock.close()
        with _lock(folder, fcntl.LOCK_EX):
            if not _is_whole(path, size):
                _make(path, shape, dtype, what, fill)
        # A lock cannot turn from exclusive to shared in one piece: take it anew and look again.


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _lock(folder: Path, how: int) -> IO[bytes]:
    """The folder's lock. Waits; looks again when the folder was removed meanwhile."""
    while True:
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            file = (folder / _LOCK).open("a+b")
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, how)
            if os.path.samestat(os.fstat(file.fileno()), (folder / _LOCK).stat()):
                return file
        except FileNotFoundError:
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def _make(path: Path, shape: tuple[int, int], dtype: np.dtype, what: str, fill: Callable[[np.ndarray], None]) -> None:
    size = shape[0] * shape[1] * dtype.itemsize
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)  # of a process that was killed
    _make_room(path.parent, size, what)
    if size >= WORTH_A_WORD:
        print(f"note: decoding {what} into {path.parent}, {size / 1e9:.1f} GB, once", file=sys.stderr)
    try:
        with temporary.open("w+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, size)  # or a full disk would be a SIGBUS while decoding
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise _no_room(path.parent, size, what) from None
                raise
            whole = mmap.mmap(file.fileno(), size)
            fill(np.frombuffer(whole, dtype).reshape(shape))
            whole.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


class _Kept(NamedTuple):
    used: float
    size: int
    folder: Path


def _make_room(mine: Path, size: int, what: str) -> None:
    """Removes the folders used longest ago until `size` more bytes fit the cache's bound and the disk."""
    kept = []
    for folder in mine.parent.iterdir():
        if folder.name.startswith(_TRASH):
            shutil.rmtree(folder, ignore_errors=True)
        elif folder != mine:
            with contextlib.suppress(OSError):  # another process removes it
                files = [path.stat() for path in folder.iterdir()]
                kept.append(_Kept((folder / _LOCK).stat().st_mtime, sum(file.st_size for file in files), folder))
    total, bound = sum(one.size for one in kept), _bound()
    for one in sorted(kept):
        if total + size <= bound and shutil.disk_usage(mine).free >= size:
            break
        if _remove(one.folder):
            total -= one.size
    if shutil.disk_usage(mine).free < size:
        raise _no_room(mine, size, what)


def _no_room(folder: Path, size: int, what: str) -> TokensError:
    free = shutil.disk_usage(folder).free
    return TokensError(
        f"{folder.parent.parent}: no room for {what}: {size / 1e9:,.2f} GB decoded, {free / 1e9:,.2f} GB are free; "
        "make room there, or set SUITE_CACHE to a folder that has it"
    )


def _bound() -> float:
    """Bytes that the cache may keep."""
    text = os.environ.get("SUITE_CACHE_GB", "")
    try:
        value = float(text) if text else DEFAULT_GB
    except ValueError:
        value = math.nan
    if not value >= 0:
        raise ConfigError(f"SUITE_CACHE_GB is {text!r}; it must be a number of gigabytes")
    return value * 1e9


def _remove(folder: Path) -> bool:
    """Removes a folder that nobody uses; says whether it did."""
    try:
        with (folder / _LOCK).open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            trash = folder.with_name(_TRASH + secrets.token_hex(8))
            folder.rename(trash)  # whoever waits for the lock finds another folder, or none, and looks again
    except OSError:
        return False
    shutil.rmtree(trash, ignore_errors=True)
    return True


def check_once(folder: Path, names: Sequence[str], check: Callable[[Sequence[str]], None]) -> None:
    """Calls `check` with those of a folder's files that it has not passed as they are now: by size and time of change.

    So a file that was changed after it was decoded is found, and one that was not is not read again.
    """
    notes = root() / "checked" / hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]
    notes.parent.mkdir(mode=0o700, exist_ok=True)
    with locked(notes):
        try:
            passed = read_json(notes / "files.json") if (notes / "files.json").is_file() else {}
        except SealError:
            passed = {}
        found = [(folder / name).stat() for name in names]
        now = {name: [file.st_size, file.st_mtime_ns] for name, file in zip(names, found, strict=True)}
        left = [name for name in names if passed.get(name) != now[name]]
        if left:
            check(left)
            write_json(notes / "files.json", {**passed, **now})
