"""Where work runs: this machine's processes, or Ray. The same functions, the same bytes, whoever runs them."""

from __future__ import annotations

import os


def cluster() -> str | None:
    """The address of a cluster that is not ours alone: $RAY_ADDRESS, but for "local", which asks for a new Ray."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address == "local" else address or None


def choose(wanted: str, num_workers: int = 1) -> str:
    """ "local" or "ray". auto is ray in a submitted job ($RAY_ADDRESS is set there) and for several workers."""
    if wanted != "auto":
        return wanted
    return "ray" if cluster() or num_workers > 1 else "local"
