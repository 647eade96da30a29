"""Datasets on the Hugging Face Hub as files: which ones each split of a config has, pinned to a commit.

A spec is `OWNER/NAME`, or `hf://datasets/OWNER/NAME@REVISION`. The rules are those of the datasets library, by its own
functions: the card's `configs` with their `data_files`, else what the files' names say. Nothing is downloaded for it,
and torch is not imported. A file is then read in ranges through `hf://datasets/OWNER/NAME@COMMIT/path`, so all of a
job reads one commit, whatever is pushed meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from suite.base import hub
from suite.base.errors import HubError, SourceError

PREFIX = "hf://datasets/"
PATHS_PER_REQUEST = 500

_REPO = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_SPEC = re.compile(rf"(?:{PREFIX})?(?P<repo>{_REPO})(?:@(?P<revision>refs/[^/]+/[^/]+|[^/@]+))?", re.ASCII)
_URL = re.compile(rf"{PREFIX}(?P<repo>{_REPO})(?:@(?P<revision>refs/[^/]+/[^/]+|[^/@]+))?/(?P<path>.+)", re.ASCII)
_FILE_LIKE = re.compile(r".*\.(parquet|jsonl?|ndjson|csv|tsv|txt|toml|gz|zst)", re.IGNORECASE)


class HubFile(NamedTuple):
    """`checksum` changes with the content: the SHA-256 of an LFS file, the git blob id of another."""

    url: str
    size: int
    checksum: str


class Dataset(NamedTuple):
    """A dataset repo at one commit: the files of each split of a config, in the order they are read."""

    repo: str
    commit: str
    config: str | None
    splits: dict[str, list[HubFile]]


def parse(spec: str) -> tuple[str, str] | None:
    """(repo, revision) of a spec that names a dataset on the Hub; None for any other.

    What lies here comes first, and what ends like a data file is one.
    """
    if spec.startswith(PREFIX):
        match = _SPEC.fullmatch(spec.rstrip("/"))
    else:
        here = spec.startswith((".", "~")) or Path(spec).exists() or Path(spec.partition("/")[0]).is_dir()
        match = None if here or _FILE_LIKE.fullmatch(spec) else _SPEC.fullmatch(spec)
    return (match["repo"], match["revision"] or "main") if match else None


_asked: dict[tuple[str, str | None], Dataset] = {}


def dataset(spec: str, config: str | None = None) -> Dataset:
    """What a spec means, asked once in the life of the process: a repo that moves on in the middle of a job does not
    matter to it. Raises SourceError or HubError."""
    named = parse(spec)
    assert named is not None
    if (spec, config) not in _asked:
        try:
            _asked[spec, config] = files_of(named[0], config, named[1])
        except HubError as error:
            if spec.startswith(PREFIX):
                raise
            reason = str(error).removeprefix(f"{named[0]}: ")
            raise HubError(f"{spec}: no such file or folder here, nor such a dataset on the Hub ({reason})") from None
    return _asked[spec, config]


def commit(spec: str, config: str | None) -> str | None:
    """The commit that this process reads of a dataset; None for what is no dataset on the Hub, or was not read yet."""
    found = _asked.get((spec, config))
    return found.commit if found else None


@functools.lru_cache(maxsize=64)
def pinned(url: str) -> str:
    """A URL or glob of files in a dataset repo, with the commit in place of its revision."""
    match = _URL.fullmatch(url)
    if not match:
        return url
    repo, revision = match["repo"], match["revision"] or "main"
    api = hub.api()
    sha = hub.patiently(repo, lambda: api.dataset_info(repo, revision=revision, expand=["sha"]).sha)
    return f"{PREFIX}{repo}@{sha}/{match['path']}"


def files_of(repo: str, config: str | None = None, revision: str = "main") -> Dataset:
    """The files of a dataset repo's config: by its card, else by their names. `config` None is the default one."""
    api = hub.api()

    def look() -> Dataset:
        commit = api.dataset_info(repo, revision=revision, expand=["sha"]).sha
        assert commit is not None
        base = f"{PREFIX}{repo}@{commit}"
        try:
            name, patterns = _patterns(repo, config, base)
            splits = _resolved(repo, patterns, base)
        except FileNotFoundError as error:
            raise SourceError(f"{repo}: no data files in this dataset ({_line(error)})") from None
        except ValueError as error:
            raise SourceError(f"{repo}: its card or its files cannot be understood ({_line(error)})") from None
        known = _described(api, repo, commit, [url for urls in splits.values() for url in urls])
        found = {split: [known[url] for url in urls] for split, urls in splits.items() if urls}
        if not found:
            raise SourceError(f"{repo}: no data files in this dataset")
        return Dataset(repo, commit, name, found)

    return hub.patiently(repo, look)


def _patterns(repo: str, config: str | None, base: str) -> tuple[str | None, dict[str, list[str]]]:
    """The config's name and, by split, where its files lie below `base`."""
    from datasets.data_files import get_data_patterns, sanitize_patterns
    from datasets.utils.metadata import MetadataConfigs

    configs = MetadataConfigs.from_dataset_card_data(_card(base))
    if not configs:
        if config not in (None, "default"):
            raise SourceError(f"{repo}: no config {config!r}: this dataset has no configs, so name none")
        return None, get_data_patterns(base)
    name = config or configs.get_default_config_name()
    if name is None:
        raise SourceError(f"{repo}: has several configs: {_some(configs)}; choose one with --config")
    if name not in configs:
        raise SourceError(f"{repo}: no config {name!r}; it has {_some(configs)}")
    about = configs[name]
    folder = f"{base}/{about['data_dir'].strip('/')}" if about.get("data_dir") else base
    if about.get("data_files") is None:
        return name, get_data_patterns(folder)
    patterns = sanitize_patterns(about["data_files"])
    prefix = f"{folder}/"
    return name, {
        split: [path if "://" in path else prefix + path for path in paths] for split, paths in patterns.items()
    }


def _card(base: str) -> Any:
    """The YAML of README.md, and of .huggingface.yaml over it, as the datasets library reads them."""
    import yaml
    from huggingface_hub import DatasetCard, DatasetCardData, HfFileSystem

    files = HfFileSystem()
    found: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        found |= DatasetCard(str(files.read_text(f"{base}/README.md", encoding="utf-8"))).data.to_dict()
    with contextlib.suppress(FileNotFoundError):
        found |= yaml.safe_load(files.read_text(f"{base}/.huggingface.yaml", encoding="utf-8")) or {}
    return DatasetCardData(**found)


def _resolved(repo: str, patterns: Mapping[str, list[str]], base: str) -> dict[str, list[str]]:
    """The URLs that patterns match, of the one format that most of them have."""
    from datasets.data_files import DataFilesDict
    from datasets.load import infer_module_for_data_files
    from datasets.packaged_modules import _ALL_ALLOWED_EXTENSIONS, _MODULE_TO_EXTENSIONS

    files = DataFilesDict.from_patterns(dict(patterns), base_path=base, allowed_extensions=_ALL_ALLOWED_EXTENSIONS)
    module, _ = infer_module_for_data_files(files, path=repo)
    assert module is not None
    return {str(split): list(urls) for split, urls in files.filter(extensions=_MODULE_TO_EXTENSIONS[module]).items()}


def _described(api: Any, repo: str, commit: str, urls: Iterable[str]) -> dict[str, HubFile]:
    """Size and checksum of each file, from the repo's listing."""
    base = f"{PREFIX}{repo}@{commit}/"
    paths = list(dict.fromkeys(url.removeprefix(base) for url in urls))
    found: dict[str, HubFile] = {}
    for first in range(0, len(paths), PATHS_PER_REQUEST):
        some = paths[first : first + PATHS_PER_REQUEST]
        for entry in api.get_paths_info(repo, some, revision=commit, repo_type="dataset"):
            checksum = entry.lfs.sha256 if entry.lfs else entry.blob_id
            found[base + entry.path] = HubFile(base + entry.path, entry.size, checksum)
    return found


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
