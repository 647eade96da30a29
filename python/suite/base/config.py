"""TOML layers and overrides into frozen, validated data; every mistake is reported at once.

Layers merge left to right, `extends` first, later keys win; an override `section.key=value` is one more layer
whose value is read as TOML (a bare word is a string). Unknown keys are errors with the nearest known key, because
a config that is silently ignored costs a training run.
"""

from __future__ import annotations

import difflib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tomli
import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from suite.base.errors import ConfigError


class Section(BaseModel):
    """A part of a config: frozen, strict about types, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, serialize_by_alias=True)


# Keys of which a config has one: a later layer's choice takes the place of an earlier one's.
_COLUMNS = frozenset({"feature", "template"})
_EXCLUSIVE: dict[tuple[str, ...], tuple[frozenset[str], ...]] = {
    ("budget",): (frozenset({"steps", "epochs", "tokens"}),),
    ("schedule",): (frozenset({"warmup_steps", "warmup_tokens"}), frozenset({"decay_fraction", "decay_steps"})),
    ("source",): (_COLUMNS,),
    ("mixture", "*"): (_COLUMNS, frozenset({"weight", "share"})),
}

Config = TypeVar("Config", bound=BaseModel)
Origins = dict[tuple[str, ...], str]


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """`model.hidden_size=24` -> (("model", "hidden_size"), 24). Only the first '=' divides."""
    key, _, value = text.partition("=")
    path = tuple(key.strip().split("."))
    if not all(path):
        raise ConfigError(f"{text}: an override is section.key=value")
    try:
        return path, tomli.loads(f"value = {value}")["value"]
    except ValueError:
        return path, value  # a bare word: name=try


def load_layers(
    files: Sequence[Path], overrides: Sequence[str] = (), under: tuple[Mapping[str, Any], str] | None = None
) -> tuple[dict[str, Any], Origins]:
    """Merges TOML files and overrides over the table `under`, which comes with the name of its origin.

    Returns the merged table and, for messages, where each key came from.
    """
    merged: dict[str, Any] = {}
    origins: Origins = {}
    if under:
        merge(merged, under[0], (), under[1], origins)
    for file in files:
        merge(merged, _load_toml(file, ()), (), str(file), origins)
    for override in overrides:
        path, value = parse_override(override)
        layer: Any = value
        for key in reversed(path):
            layer = {key: layer}
        merge(merged, layer, (), override, origins)
    return merged, origins


def _load_toml(file: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if file.resolve() in seen:
        raise ConfigError(f"{file}: extends itself: " + " -> ".join(str(path) for path in (*seen, file)))
    try:
        table = tomli.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such config file" + _nearest_file(file)) from None
    except IsADirectoryError:
        raise ConfigError(f"{file}: a folder, expected a TOML file") from None
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"{file}: not valid TOML: {str(error).splitlines()[0]}") from None
    parents = table.pop("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise ConfigError(f"{file}: extends: expected a file name or a list of them")
    merged: dict[str, Any] = {}
    for parent in parents:
        merge(merged, _load_toml(file.parent / parent, (*seen, file.resolve())), (), "", {})
    merge(merged, table, (), "", {})
    return merged


def _nearest_file(file: Path) -> str:
    names = [path.name for path in file.parent.glob("*.toml")] if file.parent.is_dir() else []
    near = difflib.get_close_matches(file.name, names, 1)
    return f"; did you mean {file.with_name(near[0])}?" if near else ""


def merge(target: dict[str, Any], layer: Mapping[str, Any], at: tuple[str, ...], origin: str, origins: Origins) -> None:
    """Lays a layer over the table that stands at `at` of a config: later keys win, sections are merged key by key."""
    for group in _EXCLUSIVE.get(at) or _EXCLUSIVE.get((*at[:-1], "*"), ()):
        if not group.isdisjoint(layer):
            for key in group:
                target.pop(key, None)  # one kind of budget replaces another
    if at == ("model",) and layer.get("type", target.get("type")) != target.get("type"):
        target.clear()  # another architecture: the fields of the old one do not carry over
    for key, value in layer.items():
        if isinstance(value, Mapping):
            if not isinstance(target.get(key), dict):
                target[key] = {}
            merge(target[key], value, (*at, key), origin, origins)
        else:
            target[key] = value
        origins[(*at, key)] = origin


def validate(kind: type[Config], table: Mapping[str, Any], origins: Origins | None = None) -> Config:
    """The table as `kind`, or ConfigError with one line for every mistake in it."""
    origins = origins or {}
    try:
        # Through JSON: strict in types, yet a TOML array may become a tuple.
        return kind.model_validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        lines = {_explain(kind, mistake, origins): None for mistake in error.errors()}
        raise ConfigError("\n".join(lines)) from None


def _explain(kind: type[BaseModel], mistake: Any, origins: Origins) -> str:
    path = _path_without_union_tags(kind, mistake["loc"])
    known = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), "")
    where = f"{known}: " if known and "=" not in known else ""
    name = ".".join(path) or "config"
    found = mistake.get("input")
    match mistake["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(path[-1], _fields(kind, path[:-1], mistake["loc"]), 1, 0.6)
            return f"{where}{name}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
        case "missing":
            return f"{where}{name}: missing, and it has no default"
        case "union_tag_invalid":
            return f"{where}{name}.type: {found.get('type')!r} is not one of {mistake['ctx']['expected_tags']}"
        case "union_tag_not_found":
            return f"{where}{name}.type: missing; say which architecture"
        case "value_error":
            return f"{where}{name}: {mistake['ctx']['error']}"
        case "literal_error":
            return f"{where}{name}: {found!r} is not one of {mistake['ctx']['expected']}"
        case _:
            return f"{where}{name}: {found!r}: {mistake['msg'][0].lower()}{mistake['msg'][1:]}"


def _unwrapped(annotation: Any) -> list[type[BaseModel]]:
    if typing.get_origin(annotation) is typing.Annotated:
        return _unwrapped(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [model for option in typing.get_args(annotation) for model in _unwrapped(option)]
    if typing.get_origin(annotation) is dict:
        return _unwrapped(typing.get_args(annotation)[1])
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []


def _path_without_union_tags(kind: type[BaseModel], location: Sequence[Any]) -> tuple[str, ...]:
    path: list[str] = []
    models = [kind]
    skip = False
    for part in location:
        if skip and any(part == _tag(model) for model in models):
            models = [model for model in models if _tag(model) == part]
            skip = False
            continue
        path.append(str(part))
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = _unwrapped(fields[0].annotation) if fields else []
        skip = len(models) > 1
    return tuple(path)


def _tag(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("type")
    return typing.get_args(field.annotation)[0] if field and typing.get_args(field.annotation) else None


def _fields(kind: type[BaseModel], path: Sequence[str], location: Sequence[Any]) -> list[str]:
    models = [kind]
    for part in path:
        if any(part in model.model_fields for model in models):  # else it is a name in a table of sections
            models = [found for model in models if part in model.model_fields
                      for found in _unwrapped(model.model_fields[part].annotation)]  # fmt: skip
    tagged = [model for model in models if _tag(model) in location] or models
    return [field.alias or name for model in tagged for name, field in model.model_fields.items()]


def to_toml(config: BaseModel) -> str:
    """The whole config, defaults written out, as TOML. Keys that are None are left out: TOML has no null."""
    return tomli_w.dumps(_without_none(config.model_dump(mode="json")))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{value} in a config")
    return value


def flatten(table: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat.update(flatten(value, f"{at}{key}.") if isinstance(value, Mapping) else {f"{at}{key}": value})
    return flat
