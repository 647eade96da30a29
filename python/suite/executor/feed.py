"""What the workers of a run tell its driver while they work: records, in files of a folder that all of them see.

Each process writes a file of its own, because appends of several are not kept apart on every shared file system; a
file that a killed worker cut short stays as it is, and its successor begins another.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from suite.base.tracker import Follower

SECONDS = 0.25

OnRecord = Callable[[dict[str, Any]], None]


class Feed:
    """A worker's end: `feed({"step": 3, ...})` costs one small write."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / f"{socket.gethostname()}-{os.getpid()}.jsonl").open("a", encoding="utf-8", buffering=1)

    def __call__(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")


@contextlib.contextmanager
def watching(folder: Path, on_record: OnRecord) -> Iterator[None]:
    """The driver's end: calls `on_record` with what comes, from a thread, and with the rest at the end."""
    followers: dict[Path, Follower] = {}
    ended = threading.Event()

    def look() -> None:
        for path in sorted(folder.glob("*.jsonl")):
            for record in followers.setdefault(path, Follower(path)).more():
                on_record(record)

    def watch() -> None:
        while not ended.wait(SECONDS):
            look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        look()
