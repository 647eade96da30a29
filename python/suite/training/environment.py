"""What a run's numbers may depend on and its config does not say: versions, the machine, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from suite.training.config import RunConfig


def environment(config: RunConfig) -> dict[str, Any]:
    """What the numbers may depend on and the config does not say."""
    from importlib.metadata import version

    names = ["suite", "torch", "numpy", "tokenizers", "safetensors", *["transformers"] * (config.model.type == "hf")]
    versions = {name: version(name) for name in names}
    return {
        "python": platform.python_version(),
        "versions": versions,
        "commit": _commit(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": config.threads,
        "workers": config.num_workers,
        "device": config.device,
    }


def _commit() -> str | None:
    """The commit this code was checked out at, marked when it was changed since; None for an installed package."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return None if done.returncode else done.stdout.strip()

    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None  # perhaps inside a repository, but not one of ours
    return (git("rev-parse", "HEAD") or "") + ("-dirty" if git("status", "--porcelain", "-uno", ".") else "")


def cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.processor())
