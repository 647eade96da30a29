"""Which files a spec names, and which split each belongs to: one file, a folder, a glob, here or at a store."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from suite.base.errors import SourceError
from suite.data import hub_files
from suite.data.access import KINDS, is_remote, kind_of, said, store_of

# The words by which the datasets library knows a split in a file or folder name.
_SPLIT_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class File:
    """A data file: an absolute path or a URL, its name below what the spec names, its checksum where it is known."""

    url: str
    name: str
    checksum: str | None = None


def splits_of(spec: str, config: str | None = None) -> dict[str, list[File]]:
    """The data files of each split that a spec has, in the order of their names.

    One file is `train`. In a folder, and for a glob, a name says the split; files that name none are `train` when no
    file names one. A dataset on the Hub has the splits of the datasets library. Raises SourceError when nothing is
    there, or no text, or several kinds of it.
    """
    if hub_files.parse(spec):
        return _on_the_hub(spec, config)
    if config is not None:
        raise SourceError(f"{spec}: config {config!r}: only a dataset on the Hub, OWNER/NAME, has configs")
    spec = hub_files.pinned(spec)
    files = _single(spec)
    if files is not None:
        return {"train": files}
    files = sorted(_remote_files(spec) if is_remote(spec) else _local_files(spec), key=lambda one: one.name.split("/"))
    files = [one for one in files if kind_of(one.url) and not _is_hidden(one.name)]
    if not files:
        where = "among the files that this matches" if _MAGIC.search(spec) else "files in this folder"
        raise SourceError(f"{spec}: no {', '.join(KINDS)} {where}")
    kinds = {str(kind_of(one.url)) for one in files}
    if len(kinds) > 1:
        raise SourceError(f"{spec}: mixes {' and '.join(sorted(kinds))} files; name one file, or split the folder")
    splits: dict[str, list[File]] = {}
    for one in files:
        splits.setdefault(split_named(one.name), []).append(one)
    # As in the datasets library: files that name no split are a split only when none does.
    unnamed = splits.pop("", [])
    return splits or {"train": unnamed}


def _on_the_hub(spec: str, config: str | None) -> dict[str, list[File]]:
    found = hub_files.dataset(spec, config)
    splits = {
        split: [File(file.url, file.url.partition(f"@{found.commit}/")[2], file.checksum) for file in files]
        for split, files in found.splits.items()
    }
    for files in splits.values():
        for file in files:
            if not kind_of(file.url):
                raise SourceError(f"{spec}: holds {file.name}; text is read from {', '.join(KINDS)}, .gz or .zst")
    return splits


def split_named(name: str) -> str:
    """The split that a file's name says, as the datasets library reads it; "" when it says none."""
    stem = name.removesuffix(PurePosixPath(name).suffix)
    for split, words in _SPLIT_WORDS.items():
        if re.search(rf"(?:^|[-._ /\d])(?:{'|'.join(words)})(?:$|[-._ /\d])", stem):
            return split
    return ""


def _single(spec: str) -> list[File] | None:
    """The one file that a spec names; None where it names a folder or is a glob."""
    if is_remote(spec):
        store, path = store_of(spec)
        with said(spec):
            store.invalidate_cache()
            if _is_glob(spec) or not store.isfile(path):
                return None
        url = spec
    else:
        if not Path(spec).is_file():
            return None
        url = str(Path(spec).absolute())  # workers stand in other folders
    if not kind_of(url):
        suffix = PurePosixPath(url).suffix
        raise SourceError(f"{spec}: a {suffix or 'nameless'} file; text is read from {', '.join(KINDS)}, .gz or .zst")
    return [File(url, PurePosixPath(url).name)]


def _is_glob(spec: str) -> bool:
    return bool(_MAGIC.search(spec)) and not spec.startswith(("http://", "https://"))  # there ? begins a query


def _local_files(spec: str) -> Iterator[File]:
    root = Path(spec)
    if root.is_dir():
        paths: Iterable[Path] = root.rglob("*")
    elif _is_glob(spec):
        before = _before_magic(root.parts)
        pattern = "/".join(root.parts[len(before) :])
        root = Path(*before)
        paths = root.glob(f"{pattern}/*" if pattern.endswith("**") else pattern)
    else:
        raise SourceError(
            f"{spec}: no such file or folder; a source is stories:N, or a file, a folder or a glob of "
            f"{', '.join(KINDS)} files, here or at s3:// or gs://"
        )
    for path in paths:
        if path.is_file():
            yield File(str(path.absolute()), path.relative_to(root).as_posix())


def _remote_files(spec: str) -> Iterator[File]:
    store, path = store_of(spec)
    with said(spec):
        if _is_glob(spec):
            root = "/".join(_before_magic(path.split("/")))
            found = [name for name, info in store.glob(path, detail=True).items() if info["type"] == "file"]
        else:
            root, found = path.rstrip("/"), store.find(path)
    if not found:
        raise SourceError(f"{spec}: no such file or folder there, or nothing in it")
    for name in found:
        yield File(store.unstrip_protocol(name), name.removeprefix(root).lstrip("/"))


def _before_magic(parts: Sequence[str]) -> list[str]:
    """The folder that is the same for all files of a glob."""
    first = next(number for number, part in enumerate(parts) if _MAGIC.search(part))
    return list(parts[:first])


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))
