"""How a door opens and closes: a mistake of the user's is a line on stderr and exit code 1, never a traceback."""

from __future__ import annotations

import os
import re
import signal
import sys
from typing import TYPE_CHECKING

from suite.base.errors import SuiteError

if TYPE_CHECKING:
    import typer


def door(help: str) -> typer.Typer:
    import typer

    return typer.Typer(
        help=help,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


def unescaped(text: str | None) -> str | None:
    """A flag's text with \\n, \\t, \\r and \\\\ as TOML reads them: a shell leaves them as they are typed."""
    return None if text is None else re.sub(r"\\([ntr\\])", lambda match: _ESCAPES[match[1]], text)


# Ctrl-C, and schedulers' ways of asking: Kubernetes' and spot machines' SIGTERM, Slurm's --signal=USR1@90.
STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupted(BaseException):
    """SIGINT, SIGTERM or SIGUSR1 under another name, so that typer does not turn it into a bare "Aborted"."""


def _interrupt(signal_number: int, _: object) -> None:
    raise Interrupted(signal_number)


def exit_code(interrupted: Interrupted) -> int:
    """130 for Ctrl-C, as shells count. Who wants the machine back (SIGTERM, Slurm's SIGUSR1) is told to come again
    later: 75, sysexits' EX_TEMPFAIL, which a scheduler's script can tell from a failure."""
    return 130 if interrupted.args[0] == signal.SIGINT else 75


def open_door(app: typer.Typer, arguments: list[str] | None = None, name: str | None = None) -> None:
    """Runs a door and exits. A signal ends the workers first, and says that what is finished is kept."""
    for number in STOPS:
        signal.signal(number, _interrupt)
    try:
        app(args=arguments, prog_name=name, standalone_mode=True)
    except SuiteError as error:
        sys.stdout.flush()
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as interrupted:
        print("\ninterrupted; what is finished is kept: run the same command again to go on from it", file=sys.stderr)
        sys.exit(exit_code(interrupted))
    except BrokenPipeError:  # `suite ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # the system refused: a full disk, a read-only folder, a file where a folder should be
        print(f"error: {error.filename or 'input or output'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
