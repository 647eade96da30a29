"""Text at s3://, gs:// and http://: the same documents and shards as from local files. Servers on loopback only."""

from __future__ import annotations

import gzip
import http.server
import json
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import call, odd_documents, refusal, run_suite
from suite.base.errors import SourceError
from suite.base.store import sha256_of
from suite.data.source import Source

DOCUMENTS = odd_documents(60)


def lines(documents: list[str]) -> bytes:
    return "".join(json.dumps({"text": one}) + "\n" for one in documents).encode()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of a server that speaks S3; its keys open nothing else."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        # The server's state is the process's, and another module may have had one.
        urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("words")
        yield "s3://words"
        fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


@pytest.fixture(scope="module")
def gs() -> Iterator[str]:
    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="words")
    server.start()
    port = server._api._httpd.server_address[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks for the bucket's kind by gRPC, for a minute
        patch.setenv("FSSPEC_GS_TOKEN", "anon")
        fsspec.config.set_conf_env(fsspec.config.conf)
        yield "gs://words"
        fsspec.config.conf.pop("gs", None)
        fsspec.filesystem("gs").clear_instance_cache()
    server.stop()


@pytest.fixture(params=["s3", "gs"])
def bucket(request) -> str:
    return request.getfixturevalue(request.param)


def put(url: str, data: bytes) -> str:
    store, path = fsspec.core.url_to_fs(url)
    store.pipe_file(path, data)
    return url


def test_files_folders_globs_and_splits(bucket):
    put(f"{bucket}/data/train-0.jsonl.gz", gzip.compress(lines(DOCUMENTS[:20])))
    put(f"{bucket}/data/train-1.jsonl", lines(DOCUMENTS[20:]))
    put(f"{bucket}/data/validation.jsonl", lines(["held out"]))
    put(f"{bucket}/data/_private.jsonl", lines(["hidden"]))
    put(f"{bucket}/data/README.md", b"no text")
    for spec in ("data", "data/", "data/*", "d*/**/*.jsonl*"):
        one = Source(f"{bucket}/{spec}")
        for block_bytes in (100, 10**9):
            found = [piece for block in one.blocks(block_bytes) for piece in one.pieces(block)]
            assert [document for texts in found for document in texts.documents()] == DOCUMENTS
        assert list(Source(f"{bucket}/{spec}", split="validation").documents()) == ["held out"]
    assert list(Source(f"{bucket}/data/validation.jsonl").documents()) == ["held out"]
    assert list(Source(f"{bucket}/data", split="train[15:25]").documents()) == DOCUMENTS[15:25]
    for nothing in ("none", "none/*.jsonl", "data/none.jsonl"):
        with pytest.raises(SourceError, match="no such file or folder"):
            Source(f"{bucket}/{nothing}").blocks()


def test_the_fingerprint_is_of_the_content(bucket):
    url = put(f"{bucket}/one/a.jsonl", lines(["one"]))
    first = Source(url).fingerprint()
    assert Source(url).fingerprint() == first
    put(url, lines(["two"]))
    assert Source(url).fingerprint() != first


def test_tokenize_from_a_bucket_writes_the_shards_of_the_local_files(s3, tokenizer_dir, tmp_path):
    """Through the command, in a process of its own: what a user does."""
    (tmp_path / "words").mkdir()
    for number in range(3):
        data = gzip.compress(lines(DOCUMENTS[20 * number : 20 * number + 20]))
        (tmp_path / "words" / f"{number}.jsonl.gz").write_bytes(data)
        put(f"{s3}/words/{number}.jsonl.gz", data)
    outs = {}
    for name, source in (("local", tmp_path / "words"), ("s3", f"{s3}/words/*.jsonl.gz")):
        out = tmp_path / name
        run_suite("tokenize", "-i", source, "-t", tokenizer_dir, "-l", "16", "--out-dir", out)
        outs[name] = [sha256_of(path) for path in sorted(out.glob("*.parquet"))]
    assert outs["local"] and outs["local"] == outs["s3"]
    manifest = json.loads((tmp_path / "s3" / "manifest.json").read_text())
    assert manifest["splits"]["train"]["source"].startswith(f"{s3}/words/*.jsonl.gz ")


def test_a_damaged_file_in_a_bucket(s3, tokenizer_dir, tmp_path):
    url = put(f"{s3}/cut.jsonl.gz", gzip.compress(lines(DOCUMENTS))[:-30])
    arguments = ["-i", url, "-t", tokenizer_dir, "-l", "16", "--out-dir", tmp_path / "out"]
    with pytest.raises(SourceError, match=r"s3://words/cut\.jsonl\.gz: damaged or cut short \(Truncated"):
        call("tokenize", *arguments)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_store_whose_package_is_not_installed(tmp_path):
    """A finder in front of the others stands for an environment without the extra."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['s3fs'] = None\n")
    import os

    line = refusal(
        "train-tokenizer",
        *("-i", "s3://words/a.jsonl", "--out-dir", tmp_path / "t"),
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert "s3://words/a.jsonl: s3:// needs a package that is not installed: pip install 'suite[s3]'" in line
    with pytest.raises(SourceError, match="Protocol not known: nostore"):
        Source("nostore://a/b.jsonl").blocks()


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A folder over HTTP with byte ranges, which the standard library lacks; it counts what it sends."""

    sent = 0

    def do_GET(self):
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = self.headers.get("Range", f"bytes=0-{len(data) - 1}").removeprefix("bytes=").split("-")
        part = data[int(first) : int(last) + 1]
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)
        Ranges.sent += len(part)

    def log_message(self, *args):
        pass


def test_of_a_remote_parquet_file_only_one_column_and_row_group_are_fetched(tmp_path):
    import functools
    import random

    draw = random.Random(0)
    noise = [draw.randbytes(50_000).hex() for _ in range(40)]
    table = pa.table({"text": [f"{i} {noise[i][:5000]}" for i in range(40)], "other": noise})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=10, use_dictionary=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Ranges, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        one = Source(f"http://127.0.0.1:{server.server_port}/a.parquet")
        blocks = one.blocks()
        assert len(blocks) == 4
        Ranges.sent = 0
        [texts] = one.pieces(blocks[2])
        assert list(texts.documents()) == table["text"].to_pylist()[20:30]
        assert Ranges.sent < 2 * 10 * 5000 + 140_000 < (tmp_path / "a.parquet").stat().st_size // 4
        assert len(one.fingerprint()) == 64
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert sys.getsizeof(blocks[0]) < 1000
