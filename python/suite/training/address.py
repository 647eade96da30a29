"""How a checkpoint is named on the command line: `run`, or `run@step`."""

from __future__ import annotations

import re
from pathlib import Path

from suite.base.errors import SealError
from suite.base.store import is_sealed, root_of
from suite.training.run import folder_of, steps_in


def checkpoint_at(address: str) -> Path:
    """The folder of a checkpoint: of `run@step`, of the last step of `run`, or the folder itself.

    Raises SealError when there is none, saying which steps there are.
    """
    name, at, wanted = address.partition("@")
    folder = next((path for path in (Path(name), root_of(None) / name) if path.is_dir()), None)
    if folder is None:
        raise SealError(f"{name}: no such folder")
    if (folder / "config.json").is_file() and not at:
        return folder
    steps = steps_in(folder)
    if not steps:
        raise SealError(f"{folder}: no sealed checkpoint in it")
    if not at:
        return folder_of(folder, steps[-1])
    if not re.fullmatch("[0-9]{1,9}", wanted) or not is_sealed(folder_of(folder, int(wanted))):
        raise SealError(f"{address}: no checkpoint of step {wanted}; there are {', '.join(map(str, steps))}")
    return folder_of(folder, int(wanted))
