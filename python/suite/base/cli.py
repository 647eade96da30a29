"""How a door opens and closes: a mistake of the user's is a line on stderr and exit code 1, never a traceback."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from suite.base.errors import SuiteError

if TYPE_CHECKING:
    import typer

INTERRUPTED = 130  # 128 + SIGINT, as shells count


def door(help: str) -> typer.Typer:
    import typer

    return typer.Typer(
        help=help,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


class Interrupted(BaseException):
    """Ctrl-C under another name, so that typer does not turn it into a bare "Aborted"."""


def _interrupt(*_: object) -> None:
    raise Interrupted


def open_door(app: typer.Typer, arguments: list[str] | None = None, name: str | None = None) -> None:
    """Runs a door and exits. Ctrl-C says how to go on: every verb of ours continues when it is run again."""
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app(args=arguments, prog_name=name, standalone_mode=True)
    except SuiteError as error:
        sys.stdout.flush()
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    except Interrupted:
        print("\ninterrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # `suite ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
