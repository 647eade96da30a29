"""Every format, plain and compressed, holds the same documents; what is damaged or unclear is one line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from conftest import odd_documents
from suite.base.errors import SourceError
from suite.base.store import sha256_of
from suite.data import pack, tokenizer
from suite.data.pack import Shape, one_pass
from suite.data.source import Source
from suite.executor.local import map_in_threads

DOCUMENTS = [*odd_documents(97), 'a "quoted", word', "\r\nlines\rof\n\nall kinds\n", '"', ","]


def csv_bytes(rows: list[list[str]], **dialect) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, **dialect).writerows(rows)
    return text.getvalue().encode()


def as_kind(kind: str, documents: list[str] = DOCUMENTS) -> bytes:
    rows = [["id", "text", "more"], *([str(i), one, "x,y"] for i, one in enumerate(documents))]
    match kind:
        case "jsonl" | "ndjson" | "json":
            return "".join(json.dumps({"id": i, "text": one}) + "\n" for i, one in enumerate(documents)).encode()
        case "csv":
            return csv_bytes(rows)
        case "tsv":
            return csv_bytes(rows, delimiter="\t", lineterminator="\n")
        case "txt":
            return "\x1e".join(documents).encode()
        case _:
            out = io.BytesIO()
            pq.write_table(pa.table({"id": range(len(documents)), "text": documents}), out, row_group_size=20)
            return out.getvalue()


def packed(data: bytes, suffix: str) -> bytes:
    """In several members, as gzip and zstd may be put one behind the other."""
    if suffix == ".gz":
        return gzip.compress(data[:700]) + gzip.compress(data[700:])
    if suffix == ".zst":
        return pa.compress(data[:700], "zstd", asbytes=True) + pa.compress(data[700:], "zstd", asbytes=True)
    return data


def source(path: Path, split: str = "train", **more) -> Source:
    return Source(str(path), split=split, separator="\x1e" if ".txt" in path.name else None, **more)


ALL_KINDS = [
    f"{kind}{suffix}"
    for kind in ("jsonl", "json", "ndjson", "csv", "tsv", "txt", "parquet")
    for suffix in ("", ".gz", ".zst")
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("formats")
    found = {}
    for name in ALL_KINDS:
        kind, dot, suffix = name.partition(".")
        found[name] = folder / f"a.{name}"
        found[name].write_bytes(packed(as_kind(kind), dot + suffix))
    return found


@pytest.mark.parametrize("name", ALL_KINDS)
def test_the_same_documents_from_every_format(files, name):
    one = source(files[name])
    for block_bytes in (1, 300, 10**9):
        found = [piece for block in one.blocks(block_bytes) for piece in one.pieces(block)]
        assert [document for texts in found for document in texts.documents()] == DOCUMENTS
    for split in ("train[:5]", "train[7:40]", "train[95:]", "train[-3:]", "train[20%:21%]+train[:1]"):
        assert list(source(files[name], split).documents()) == list(source(files["jsonl"], split).documents())
    assert next(source(files[name]).head(one.blocks()[0]).documents()) == DOCUMENTS[0]


def test_the_same_shards_from_every_format(files, tokenizer_dir, tmp_path):
    encoder, shape = tokenizer.load(tokenizer_dir), Shape(16, rows_per_shard=50)
    shards = {}
    for number, name in enumerate(("jsonl", "jsonl.gz", "jsonl.zst", "parquet", "csv", "csv.gz", "txt.zst")):
        out = tmp_path / str(number)
        work = one_pass(map_in_threads(1 + number % 2))
        pack.tokenize(source(files[name]), encoder, out, shape, work, name="train", block_bytes=500 + 100 * number)
        shards[name] = [sha256_of(path) for path in sorted(out.glob("*.parquet"))]
    assert len(shards["jsonl"]) > 1
    assert set(map(tuple, shards.values())) == {tuple(shards["jsonl"])}


FIELDS = st.text(st.sampled_from('ab",\n\r\té '), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 3).flatmap(lambda width: st.lists(st.lists(FIELDS, min_size=width, max_size=width), max_size=6)),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.integers(1, 40),
    st.booleans(),
)
def test_csv_is_read_as_python_reads_it(tmp_path_factory, rows, ending, quoting, block_bytes, mark):
    width = len(rows[0]) if rows else 1
    data = csv_bytes([["text", "b", "c"][:width], *rows], lineterminator=ending, quoting=quoting)
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(b"\xef\xbb\xbf" * mark + data)
    read = [row for row in csv.reader(io.StringIO(data.decode(), newline="")) if row]
    assume(all(len(row) == width for row in read))  # Python writes some fields so that it reads them as two
    expected = [row[0] for row in read[1:]]
    one = Source(str(path))
    assert [text for block in one.blocks(block_bytes) for t in one.pieces(block) for text in t.documents()] == expected


def said(path: Path, data: bytes, **more) -> str:
    path.write_bytes(data)
    with pytest.raises(SourceError) as caught:
        list(source(path, **more).documents())
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_a_csv_that_is_not_as_its_header_says(tmp_path):
    path = tmp_path / "a.csv"
    assert "no column 'text'; it has id, body" in said(path, b"id,body\n1,a\n")
    assert "more than one column 'text'" in said(path, b"text,text\n1,a\n")
    assert "empty; a csv file begins with the names" in said(path, b"")
    assert "row 1: it has 1 fields, the header 2" in said(path, b"id,text\n1,a\n2\n")
    assert "row 0: it has 3 fields, the header 2" in said(path, b"id,text\n1,a,b\n2,a\n")
    assert "row 2: a quote is opened and never closed" in said(path, b'id,text\n1,a\n2,a\n3,"a\n4,b\n')
    assert "row 1: text follows a closing quote" in said(path, b'id,text\n1,a\n2,"a\\"b"\n')
    assert "row 1: not UTF-8" in said(path, b"id,text\n1,a\n2,caf\xe9\n")
    assert list(Source(str(path), errors="replace").documents()) == ["a", "caf\ufffd"]
    path.write_bytes(b'id,text\n1,\n2,""\n')
    assert list(Source(str(path)).documents()) == ["", ""]


@pytest.mark.parametrize("name", ["jsonl.gz", "csv.gz", "txt.gz", "jsonl.zst", "csv.zst", "txt.zst", "parquet.zst"])
def test_a_compressed_file_that_is_cut_short_or_damaged(files, tmp_path, name):
    path, data = tmp_path / f"a.{name}", files[name].read_bytes()
    for cut in (1, 9, len(data) // 2):
        assert "damaged or cut short" in said(path, data[:-cut])
    assert "damaged or cut short" in said(path, data[:30] + b"\xff" * 20 + data[50:])
    assert "damaged or cut short" in said(path, b"")
    assert "damaged or cut short" in said(path, as_kind(name.partition(".")[0]))


def test_one_json_array_is_not_lines(tmp_path):
    data = json.dumps([{"text": "a"}, {"text": "b"}]).encode()
    assert "one JSON array, expected a record in each line" in said(tmp_path / "a.json", b"\n " + data)
    assert "one JSON array" in said(tmp_path / "a.json.gz", gzip.compress(data))


def test_lines_are_numbered_in_compressed_files_and_far_blocks(tmp_path):
    lines = b'{"text": "some words"}\n\n' * 50 + b'{"text": 3}\n'
    for name, data in (("a.jsonl", lines), ("a.jsonl.gz", gzip.compress(lines))):
        (tmp_path / name).write_bytes(data)
        one = Source(str(tmp_path / name))
        with pytest.raises(SourceError, match=f"{name}: line 101: field 'text' is a int"):
            [list(one.pieces(block)) for block in one.blocks(64)]


ROWS = st.lists(st.sampled_from([0, 1, 100, 3000]).map(lambda n: "x" * n) | st.just("é" * 900), min_size=1, max_size=60)


@settings(max_examples=40, deadline=None)
@given(ROWS, st.integers(200, 5000), st.sampled_from(["jsonl", "jsonl.gz", "csv", "txt.gz", "parquet"]), st.booleans())
def test_a_piece_is_a_block_large_or_one_document(tmp_path_factory, documents, piece_bytes, name, ordered):
    from suite.data.formats import parquet

    documents = [*(sorted(documents, key=len) if ordered else documents), "the last"]
    kind, dot, suffix = name.partition(".")
    path = tmp_path_factory.mktemp("pieces") / f"a.{name}"
    path.write_bytes(packed(as_kind(kind, documents), dot + suffix))
    one = source(path)
    batch_bytes, parquet.BATCH_BYTES = parquet.BATCH_BYTES, piece_bytes // 8
    try:
        found = [texts for block in one.blocks(piece_bytes) for texts in one.pieces(block)]
    finally:
        parquet.BATCH_BYTES = batch_bytes
    assert [document for texts in found for document in texts.documents()] == documents
    for texts in found:
        longest = int((texts.stops - texts.starts).max()) if texts.num_documents else 0
        # A batch of parquet may be of 16 rows before the first is seen.
        assert texts.num_bytes <= piece_bytes + longest * (16 if kind == "parquet" else 2)
