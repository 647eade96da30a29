"""`model.init_from`: a model that was trained before, as the beginning of a run.

It is a checkpoint of a run (runs/a@512), a folder in transformers' format, or a repo on the Hub (OWNER/NAME@REVISION).
Its config is read when the run's is, as one more layer below [model]; its weights at step 0. What it was then, a commit
or a hash, is written into the run's config, so that going on asks nobody and nothing can move underneath.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli

from suite.base import hub
from suite.base.errors import ConfigError, HubError, SealError, TokensError
from suite.base.store import MANIFEST, open_sealed, root_of, sha256_of
from suite.data.library import Library
from suite.data.tokenizer import Tokenizer
from suite.training.address import checkpoint_at
from suite.training.run import CONFIG, resume_steps

if TYPE_CHECKING:
    from suite.models.build import Model
    from suite.training.config import RunConfig

_NAME = r"[A-Za-z0-9][\w.-]*"
_REPO = re.compile(rf"(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>refs/[^/]+/[^/]+|[^/@]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILES = ["config.json", "model*.safetensors", "model.safetensors.index.json", "tokenizer*", "special_tokens_map.json"]


def filled(table: dict[str, Any]) -> dict[str, Any]:
    """A run's table with what its `model.init_from` says below its own keys; the table itself where there is none.

    Raises ConfigError, SealError or HubError when it cannot be had or is no model of this type.
    """
    model = table.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("init_from"), str):
        return table
    name, root, data = model["init_from"], table.get("root"), table.get("data")
    if not isinstance(root, str | None) or not isinstance(data, dict):
        return table  # mistakes that are named when the table is checked
    pretrained = model.get("pretrained") or _stored(table, name) or _described(name, root)
    try:
        config = json.loads(pretrained["config"])
        vocab_size = config["vocab_size"]
    except (ValueError, LookupError, TypeError):
        raise ConfigError("model.pretrained: a run writes it, and this is not what one wrote; leave it out") from None
    fields: dict[str, Any] = {"vocab_size": vocab_size}
    if model.get("type") == "hf":
        fields["model_class"] = next(iter(config.get("architectures") or []), None)
    else:
        from suite.models import hf

        try:
            fields = hf.native(config)
        except ValueError as error:
            raise ConfigError(f'model.init_from: {name}: {error}; type = "hf" takes any') from None
        if fields.pop("type") != model.get("type"):
            raise ConfigError(f"model.type is {model.get('type')!r}, {name} holds a {config['model_type']!r}")
    seq_len = data.get("seq_len", 512)
    if isinstance(seq_len, int) and fields.get("max_position_embeddings", seq_len) < seq_len:
        del fields["max_position_embeddings"]  # rows are longer now: seq_len says it
    if model.get("resize_embeddings"):
        fields.pop("vocab_size")
    elif model.get("vocab_size", vocab_size) != vocab_size:
        raise ConfigError(
            f"model.vocab_size is {model['vocab_size']}, {name} has {vocab_size}: leave it out, or set "
            "model.resize_embeddings = true"
        )
    return {**table, "model": {**fields, **model, "pretrained": pretrained}}


def _stored(table: dict[str, Any], name: str) -> dict[str, Any] | None:
    """What the run, or the one it is forked from, wrote down when it began from the same."""
    root = root_of(table.get("root"))
    for folder in (root / "runs" / str(table.get("name")), root / str(table.get("from", "")).partition("@")[0]):
        try:
            model = tomli.loads((folder / CONFIG).read_text(encoding="utf-8"))["model"]
            if model["init_from"] == name:
                return model["pretrained"]
        except (OSError, ValueError, LookupError, TypeError):
            continue  # one that has not begun or is its own, or that training/run.py will refuse
    return None


def _local(name: str, root: str | None) -> Path | None:
    """The folder that is meant, None where it can only be a repo: what lies here comes before the Hub."""
    path, _, step = name.partition("@")
    folder = next((one for one in (Path(path).expanduser(), root_of(root) / path) if one.is_dir()), None)
    if folder is None:
        return None
    return checkpoint_at(f"{folder}@{step}" if step else str(folder))


def _described(name: str, root: str | None) -> dict[str, str]:
    from suite.models import hf

    folder = _local(name, root)
    if folder is not None:
        if (folder / MANIFEST).is_file():
            open_sealed(folder, "checkpoint", verify=False)
        return {"version": _version(folder), "config": json.dumps(hf.config_json(folder), sort_keys=True)}
    match = _REPO.fullmatch(name)
    if match is None:
        raise ConfigError(f"model.init_from: {name}: no such folder here, and no name of a repo (OWNER/NAME@REVISION)")
    repo, revision, api = match["repo"], match["revision"] or "main", hub.api()
    try:
        commit = revision
        if not _COMMIT.fullmatch(revision):
            commit = hub.patiently(repo, lambda: api.model_info(repo, revision=revision, expand=["sha"]).sha, 1)
        path = hub.patiently(repo, lambda: api.hf_hub_download(repo, "config.json", revision=commit))
    except HubError as error:
        reason = str(error).removeprefix(f"{repo}: ")
        raise HubError(f"model.init_from: {name}: no such folder here, nor such a repo on the Hub ({reason})") from None
    return {"version": str(commit), "config": json.dumps(hf.config_json(Path(path).parent), sort_keys=True)}


def _version(folder: Path) -> str:
    """One hash for the weights in a folder."""
    from suite.models import hf

    hashes = [sha256_of(path) for path in hf.weight_files(folder)]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def folder_of(config: RunConfig) -> Path:
    """The folder, with weights and tokenizer, that a settled run begins from; downloaded where it is a repo's.

    Raises SealError when it holds other weights than when the run began.
    """
    model = config.model
    assert model.init_from is not None and model.pretrained is not None
    folder = _local(model.init_from, config.root)
    if folder is not None:
        if _version(folder) != model.pretrained.version:
            raise SealError(f"{folder}: holds other weights now than when {config.name} was begun from them")
        return folder
    match = _REPO.fullmatch(model.init_from)
    if match is None or not _COMMIT.fullmatch(model.pretrained.version):
        raise SealError(f"{model.init_from}: is gone; {config.name} begins from it")
    repo, commit, api = match["repo"], model.pretrained.version, hub.api()
    return Path(
        hub.patiently(repo, lambda: api.snapshot_download(repo, revision=commit, allow_patterns=_FILES, max_workers=4))
    )


def begin(model: Model, config: RunConfig) -> None:
    """Puts the weights of `init_from` in place of those that were drawn."""
    from suite.models import hf

    if config.model.init_from is not None:
        hf.begin_from(model, folder_of(config))


def check_vocabulary(config: RunConfig, encoder: Tokenizer) -> None:
    """Raises TokensError when a run that is yet to begin would read ids by which the model knows other tokens.

    Ids that only one side has are the model's unused rows, or what `resize_embeddings` is for.
    """
    if config.model.init_from is None or config.from_ is not None or resume_steps(config.folder):
        return
    folder = folder_of(config)
    if not (folder / Library.files[0]).is_file():
        return
    before = Library.read(folder / Library.files[0])
    for number in range(min(before.vocab_size, encoder.vocab_size)):
        theirs, ours = before.token_of(number), encoder.library.token_of(number)
        if None not in (theirs, ours) and theirs != ours:
            raise TokensError(
                f"{encoder.folder}: token {number} is {ours!r}, for the model of {config.model.init_from} it is "
                f"{theirs!r}: make the tokens with its tokenizer (data.tokenizer, or suite tokenize -t {folder})"
            )
