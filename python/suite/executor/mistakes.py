"""What went wrong in a process far away, as one line here: Ray wraps errors in pages of text, and starts a group of
workers again whatever ended it.
"""

from __future__ import annotations

import json
from pathlib import Path

from suite.base import errors
from suite.base.errors import ExecutorError, SuiteError
from suite.base.store import write_json

_NAME = "mistake.json"


def failure(error: BaseException) -> str:
    """The last line of the innermost cause: Ray wraps errors in pages of text."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def suite_error(error: BaseException | None) -> SuiteError | None:
    while error is not None and not isinstance(error, SuiteError):
        error = error.__cause__ or getattr(error, "_base_exc", None)
    return error


def mistake_in(scratch: Path) -> SuiteError | None:
    path = scratch / _NAME
    if not path.is_file():
        return None
    mistake = json.loads(path.read_text())
    return getattr(errors, mistake["kind"], ExecutorError)(mistake["message"])


def keep_mistake(scratch: Path, error: SuiteError) -> None:
    """For the driver, and for the other ranks, which need not begin again."""
    write_json(scratch / _NAME, {"kind": type(error).__name__, "message": str(error)})
