"""What a run reports: metrics.jsonl always, and W&B when asked. The file is the truth; a tracker's failure is a
warning, once, and never the end of a run.

A record is one flat table with the step first. Steps count finished updates; a record of step k with train/ keys
describes the update that led to k, one with validation/ keys the weights at k.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from suite.base.errors import SealError
from suite.base.store import write_atomically, write_json

METRICS = "metrics.jsonl"

# What a clock or a meter says: keys that begin so differ between runs that are otherwise the same, bit for bit.
MEASURED = ("train/tokens_per_second", "train/step_seconds", "train/seconds_left", "train/mfu", "memory/", "energy/")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a jsonl file; a last line that a kill cut short is left out.

    Raises SealError for any other line that is not a record.
    """
    return Follower(path).more()


class Follower:
    """Reads a growing jsonl file from where it stopped the last time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0

    def more(self) -> list[dict[str, Any]]:
        """The whole lines that have come since the last call."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            if file.seek(0, 2) < self.offset:
                self.offset = 0  # a resumed run has dropped records: read again from the start
            file.seek(self.offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        try:
            records = [json.loads(line) for line in whole.splitlines()]
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise SealError(f"{self.path}: a line of it is not JSON; the file is damaged") from None
        if not all(isinstance(record, dict) and isinstance(record.get("step"), int) for record in records):
            raise SealError(f"{self.path}: a line of it is not a record with a step; the file is damaged")
        return records


def truncate(path: Path, keeps: Callable[[dict[str, Any]], bool]) -> None:
    """Drops the records that a resumed run writes again."""
    kept = [record for record in read_records(path) if keeps(record)]
    write_atomically(path, "".join(json.dumps(record) + "\n" for record in kept))


class Tracker:
    """`log` costs microseconds and survives SIGKILL: each record is one write to the file."""

    def __init__(self, folder: Path, kind: str, project: str, name: str, config: Mapping[str, Any]) -> None:
        self.file = (folder / METRICS).open("a", encoding="utf-8", buffering=1)
        self.wandb = _Wandb(folder, project, name, config) if kind == "wandb" else None

    def log(self, step: int, values: Mapping[str, float | str]) -> None:
        record = {"step": step, **values}
        self.file.write(json.dumps(record) + "\n")
        if self.wandb:
            self.wandb.log(record)

    def log_texts(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Records of samples.jsonl, as a table of W&B's; the file itself is the writer's."""
        if self.wandb:
            self.wandb.log_texts(step, records)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
        if self.wandb:
            self.wandb.close(failed=error is not None)


class _Wandb:
    """One W&B run for the life of the run: its id lies in wandb.json, so a resumed run goes on where it was."""

    def __init__(self, folder: Path, project: str, name: str, config: Mapping[str, Any]) -> None:
        self.run: Any = None
        try:
            import wandb

            path = folder / "wandb.json"
            if path.is_file():
                run_id = json.loads(path.read_text())["id"]
            else:
                run_id = secrets.token_hex(4)
                write_json(path, {"id": run_id, "project": project})
            self.run = wandb.init(
                project=project,
                name=name,
                id=run_id,
                resume="allow",
                dir=str(folder),
                config=dict(config),
                settings=wandb.Settings(silent=True, console="off"),
            )
            self.run.define_metric("*", step_metric="step")  # W&B's own counter cannot go back when a run resumes
        except Exception as error:
            self._warn(error)

    def log(self, record: Mapping[str, Any]) -> None:
        if self.run is not None:
            try:
                self.run.log(dict(record))
            except Exception as error:
                self._warn(error)

    def log_texts(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        if self.run is not None:
            try:
                import wandb

                columns: list[Any] = list(records[0])
                table = wandb.Table(columns=columns, data=[[record[key] for key in columns] for record in records])
                self.run.log({"step": step, "samples": table})
            except Exception as error:
                self._warn(error)

    def close(self, failed: bool) -> None:
        if self.run is not None:
            try:
                self.run.finish(exit_code=int(failed))
            except Exception as error:
                self._warn(error)

    def _warn(self, error: Exception) -> None:
        self.run = None
        print(f"warning: W&B is off for this run ({error}); metrics.jsonl goes on", file=sys.stderr)
