"""Being asked to stop: by Ctrl-C, by a scheduler that wants the machine back, by a node that will go."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from suite.base.cli import STOPS


@contextmanager
def asked_to_stop(asked: list[int]) -> Iterator[None]:
    """Appends the signals that ask this process to end, as they come; the run ends after the step that all ranks
    agree on, with a resume state. The second signal ends it at once.

    A signal that this process ignores stays ignored. In a thread that is not the main one nothing can be caught.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPS}

    def ask(number: int, _: object) -> None:
        asked.append(number)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
