"""Documents, splits and slices: as the datasets library means them, from every kind of file."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import odd_documents
from suite.data.source import Source

DOCUMENTS = odd_documents(97)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    lines = "\n".join(json.dumps({"id": i, "text": text}) + "\n" * (i % 9 == 0) for i, text in enumerate(DOCUMENTS))
    (folder / "a.jsonl").write_text(lines)
    pq.write_table(pa.table({"id": range(97), "text": DOCUMENTS}), folder / "a.parquet", row_group_size=20)
    (folder / "a.txt").write_text("\x1e".join(DOCUMENTS), newline="")
    return {"jsonl": folder / "a.jsonl", "parquet": folder / "a.parquet", "txt": folder / "a.txt"}


def source(files: dict[str, Path], kind: str, split: str = "train") -> Source:
    return Source(str(files[kind]), split=split, separator="\x1e" if kind == "txt" else None)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "txt"])
@pytest.mark.parametrize("block_bytes", [1, 50, 777, 10**9])
def test_every_document_once_in_order_for_any_block_size(files, kind, block_bytes):
    one = source(files, kind)
    blocks = one.blocks(block_bytes)
    assert [document for block in blocks for texts in one.pieces(block) for document in texts.documents()] == DOCUMENTS
    assert len(blocks) > 5 or block_bytes > 500


SLICES = st.tuples(st.none() | st.integers(-120, 120), st.none() | st.integers(-120, 120), st.booleans())


@settings(max_examples=40, deadline=None)
@given(part=SLICES, kind=st.sampled_from(["jsonl", "parquet", "txt"]))
def test_slices_are_those_of_the_datasets_library(files, part, kind):
    from datasets import ReadInstruction

    start, stop, percent = part
    if percent:
        start, stop = (None if v is None else max(-100, min(100, v)) for v in (start, stop))
    unit = "%" if percent else ""
    spec = "train[" + ":".join("" if v is None else f"{v}{unit}" for v in (start, stop)) + "]"
    [wanted] = ReadInstruction.from_spec(spec).to_absolute({"train": len(DOCUMENTS)})
    expected = DOCUMENTS[wanted.from_ : max(wanted.from_, wanted.to)]
    one = source(files, kind, spec)
    from suite.base.errors import SourceError

    try:
        found = list(one.documents())
    except SourceError as error:
        assert "has no documents" in str(error)
        found = []
    assert found == expected


def test_slices_add_up(files):
    assert list(source(files, "parquet", "train[90:]+train[:3]").documents()) == DOCUMENTS[90:] + DOCUMENTS[:3]


def test_folders_have_the_splits_that_their_names_say(tmp_path):
    for name in ("train-00001", "train-00000", "validation-00000", "notes"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    assert list(Source(str(tmp_path)).documents()) == ["train-00000", "train-00001"]
    assert list(Source(str(tmp_path), split="validation").documents()) == ["validation-00000"]


def test_a_folder_without_split_names_is_train(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(name)
    assert list(Source(str(tmp_path)).documents()) == ["a", "b"]


def test_the_fingerprint_is_of_the_text(files, tmp_path):
    one = source(files, "jsonl")
    assert one.fingerprint() == source(files, "jsonl").fingerprint()
    changed = tmp_path / "a.jsonl"
    changed.write_text(files["jsonl"].read_text().replace("fox", "cat"))
    assert Source(str(changed)).fingerprint() != one.fingerprint()
    assert source(files, "jsonl", "train[:5]").fingerprint() != one.fingerprint()
    assert Source("stories:100").fingerprint() != Source("stories:100?seed=1").fingerprint()


def test_whole_txt_files_are_documents(tmp_path):
    (tmp_path / "a.txt").write_bytes("one\r\n\r\ntwo ümlaut".encode())
    assert list(Source(str(tmp_path / "a.txt")).documents()) == ["one\r\n\r\ntwo ümlaut"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("ab-", max_size=5), min_size=1, max_size=8), st.sampled_from(["-", "--", "-a-"]), st.integers(1, 9)
)
def test_separators_divide_as_split_does(tmp_path_factory, parts, separator, block_bytes):
    path = tmp_path_factory.mktemp("txt") / "a.txt"
    text = separator.join(parts)
    path.write_text(text)
    expected = text.split(separator)
    if expected[-1] == "" and len(expected) > 1:
        expected.pop()  # a file that ends with a separator ends with no document
    one = Source(str(path), separator=separator)
    found = (
        [document for block in one.blocks(block_bytes) for texts in one.pieces(block) for document in texts.documents()]
        if text
        else [""]
    )
    assert found == (expected if text else [""])


def test_of_a_long_document_the_head_has_the_beginning(tmp_path):
    from suite.data.texts import Texts

    for most in range(1, 9):
        found = list(Texts.of(["é東🙂x", "", "ab"]).shortened(most).documents())
        assert found == ["é東🙂x".encode()[:most].decode(errors="ignore"), "", "ab"[:most]]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "é" * 3_000_000}))
    one = Source(str(tmp_path / "a.jsonl"))
    assert list(one.head(one.blocks()[0]).documents()) == ["é" * (1 << 19)]
