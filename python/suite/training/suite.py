"""A family of runs from one TOML: what they share, and the members that differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from suite.base.config import load_layers, validate
from suite.base.errors import ConfigError
from suite.training.config import RunConfig, SuiteSection
from suite.training.pretrained import filled


def load_suite(file: Path, overrides: list[str]) -> tuple[SuiteSection, list[RunConfig]]:
    """The suite's own section and its members' configs, named suite/member, in the order given.

    A member is its file layered over what the suite shares; overrides come last and reach every member, but for
    `name=` and `suite.*=`, which are the suite's own. Raises ConfigError with a line for every mistake in any of them.
    """
    own = [override for override in overrides if override.startswith(("name=", "suite."))]
    overrides = [override for override in overrides if override not in own]
    shared, origins = load_layers([file], own)
    if "suite" not in shared:
        raise ConfigError(f"{file}: no [suite] section; `suite train {file}` trains a single run")
    section = validate(SuiteSection, shared.pop("suite"), {path[1:]: origin for path, origin in origins.items()})
    name = shared.pop("name", file.stem)
    shared.setdefault("threads", 1)  # many runs side by side: one core each, and bits that do not depend on it
    mistakes: list[str] = []
    runs: list[RunConfig] = []
    for member in section.members:
        try:
            runs.append(_member(shared, name, file, file.parent / member, overrides))
        except ConfigError as error:
            mistakes += str(error).splitlines()
    if mistakes:
        raise ConfigError("\n".join(dict.fromkeys(mistakes)))
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"{file}: suite.members: two members have the same name, of {', '.join(names)}")
    return section, runs


def _member(shared: dict[str, Any], suite: str, file: Path, member: Path, overrides: list[str]) -> RunConfig:
    table, origins = load_layers([member], overrides, under=(shared, str(file)))
    table["name"] = f"{suite}/{table.get('name', member.stem)}"
    return validate(RunConfig, filled(table), origins)
