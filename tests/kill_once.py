"""A function for worker processes that kills its own process the first time it meets one item."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def encode_or_die(function, doomed, mark: Path, item):
    if item == doomed and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return function(item)
