"""How the bytes of a file are had: local or at a store, plain or compressed; and what a file's name says of them.

A file is a local path, or a URL that fsspec understands: s3://, gs://, hf://datasets/OWNER/NAME@REV/path, http(s)://.
Local files are opened by the system; everything else goes through fsspec, which has its one address here. Credentials
and endpoints come from the environment, as each store's own library reads them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from suite.base import hub
from suite.base.errors import SourceError
from suite.base.store import sha256_of

KINDS = {
    ".parquet": "parquet",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "txt",
}
CODECS = {".gz": "gzip", ".zst": "zstd"}
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}  # what `pip install 'suite[...]'` brings for a store

READ_BYTES = 1 << 20
REMOTE_BYTES = 4 << 20  # of a request to a store
THREADS = 16  # that wait for stores, or hash files

T = TypeVar("T")
R = TypeVar("R")


def is_remote(url: str) -> bool:
    return "://" in url


def _suffixes(url: str) -> list[str]:
    path = urlsplit(url).path if url.startswith(("http://", "https://")) else url
    return [suffix.lower() for suffix in PurePosixPath(path).suffixes[-2:]]


def codec_of(url: str) -> str | None:
    """gzip or zstd, by the last suffix; None for a file that is not compressed."""
    return CODECS.get("".join(_suffixes(url)[-1:]))


def suffix_of(url: str) -> str:
    """`.jsonl` of a.jsonl and a.jsonl.gz; "" where there is none."""
    suffixes = _suffixes(url)
    return "".join(suffixes[:-1][-1:] if codec_of(url) else suffixes[-1:])


def kind_of(url: str) -> str | None:
    """The format of a file, by its name; None for one that holds no text we read."""
    return KINDS.get(suffix_of(url))


def store_of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it."""
    import fsspec.core

    protocol = url.partition("://")[0]
    if protocol == "hf":
        hub.bound_the_client()
    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        way = f"pip install 'suite[{extra}]'" if extra else str(error)
        raise SourceError(f"{url}: {protocol}:// needs a package that is not installed: {way}") from None
    except ValueError as error:
        raise SourceError(f"{url}: {error}; text is read from local files, s3://, gs:// and other stores") from None


@contextlib.contextmanager
def said(url: str) -> Iterator[None]:
    """Turns what a store or a decompressor raises into one line that names the file."""
    try:
        yield
    except (SourceError, AssertionError):
        raise
    except FileNotFoundError:
        raise SourceError(f"{url}: no such file or folder") from None
    except Exception as error:  # each store's library has its own, without a common root
        if url.startswith("hf://"):
            raise SourceError(f"{url}: {hub.explain(error)}") from None
        what = "damaged or cut short" if codec_of(url) and not is_remote(url) else "cannot be read"
        raise SourceError(f"{url}: {what} ({_line(error)})") from None


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


class Reader:
    """A file's bytes, uncompressed, from the beginning or (where nothing is compressed) from a place in it."""

    def __init__(self, url: str, raw: Any) -> None:
        self.url = url
        self._raw = raw

    def seek(self, position: int) -> None:
        with said(self.url):
            self._raw.seek(position)

    def read(self, size: int) -> bytes:
        """The next bytes, at most so many; none at the end. Raises SourceError for a damaged or shortened file."""
        with said(self.url):
            return self._raw.read(size)


@contextlib.contextmanager
def reading(url: str) -> Iterator[Reader]:
    """Opens a file to read its bytes, decompressed. Closes it at the end."""
    import pyarrow

    codec = codec_of(url)
    with contextlib.ExitStack() as stack:
        with said(url):
            raw = stack.enter_context(seekable(url))
            if codec:
                if not size_of(url):
                    raise SourceError(f"{url}: damaged or cut short (it is empty)")
                native = pyarrow.PythonFile(raw, mode="r") if is_remote(url) else pyarrow.OSFile(url)
                raw = stack.enter_context(pyarrow.CompressedInputStream(native, codec))
        yield Reader(url, raw)


def seekable(url: str, cache_type: str = "readahead") -> Any:
    """The file as it lies there, open for reading at any place. `cache_type` is fsspec's."""
    if not is_remote(url):
        return Path(url).open("rb")
    store, path = store_of(url)
    with said(url):
        return store.open(path, "rb", block_size=REMOTE_BYTES, cache_type=cache_type)


def size_of(url: str) -> int:
    """Bytes of the file as it lies there."""
    with said(url):
        if not is_remote(url):
            return Path(url).stat().st_size
        store, path = store_of(url)
        return store.size(path)


def line_at(url: str, position: int) -> int:
    """The number, from 1, of the line at a place in the uncompressed bytes. Reads all before it: only for errors."""
    lines = 1
    with reading(url) as file:
        while position > 0 and (data := file.read(min(READ_BYTES, position))):
            lines += data.count(b"\n")
            position -= len(data)
    return lines


# The names under which stores tell what identifies a file's content, the surest first.
_CHECKSUMS = ("sha256", "blob_id", "md5Hash", "ETag", "etag", "crc32c", "checksum")


def checksum(url: str) -> str:
    """What changes with the content: SHA-256 of a local file; of a remote one its size and the store's own checksum.

    A store that tells none (plain HTTP may not) has the content read.
    """
    if not is_remote(url):
        return sha256_of(Path(url))
    store, path = store_of(url)
    with said(url):
        info = store.info(path)
        info = {**info, **(info.get("lfs") or {})}
        for name in _CHECKSUMS:
            if info.get(name):
                return f"{info.get('size')} bytes {name}={str(info[name]).strip(chr(34))}"
        digest = hashlib.sha256()
        with seekable(url) as raw:
            while data := raw.read(REMOTE_BYTES):
                digest.update(data)
        return digest.hexdigest()


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The results in order: for many files, each of which is waited for."""
    if len(items) < 2:
        return [function(one) for one in items]
    with ThreadPoolExecutor(min(THREADS, len(items))) as pool:
        return list(pool.map(function, items))
