"""What must be the same on every node of a cluster, and the line that says where it is not."""

from __future__ import annotations

import functools
import hashlib
import platform
import socket
from importlib.metadata import version
from pathlib import Path

from suite.base import errors
from suite.base.errors import ExecutorError


@functools.cache
def versions() -> dict[str, str]:
    """Of our own package every file counts, because one version covers many states of it."""
    package = Path(errors.__file__).parents[1]
    ours = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.so")]):
        ours.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    found = {"python": platform.python_version(), **{name: version(name) for name in ("suite", "ray", "torch")}}
    return {**found, "suite": f"{found['suite']} ({ours.hexdigest()[:8]})"}


def check_versions(expected: dict[str, str]) -> None:
    """Raises ExecutorError, naming this node, when it differs from where the work was started."""
    found = versions()
    different = [f"{name} {found[name]}, not {expected[name]}" for name in expected if found[name] != expected[name]]
    if different:
        raise ExecutorError(
            f"node {socket.gethostname()} has {'; '.join(different)}: install the same versions on every node"
        )
