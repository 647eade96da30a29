"""Which files a spec names: folders, globs, splits; and that docs/sources.md says what is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from suite.base.errors import SourceError
from suite.data.access import codec_of, kind_of
from suite.data.files import split_named, splits_of
from suite.data.source import Source
from test_formats import as_kind, packed
from test_stores import gs, put, s3

__all__ = ["gs", "s3"]  # fixtures

DOC = (Path(__file__).parents[1] / "docs" / "sources.md").read_text()
EXAMPLES = re.findall(r"^\| `([^`]+)` \|", DOC.split("## Formats")[0], re.MULTILINE)


def line(text: str) -> str:
    return json.dumps({"text": text})


@pytest.mark.parametrize("spec", [one for one in EXAMPLES if not one.startswith("https://")])
def test_the_examples_of_the_document(spec, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    documents = ["one", "two"]
    if spec.startswith("stories:"):
        assert len(list(Source(f"{spec.replace('20000', '20')}").documents())) == 20
        return
    name = {"books": "books/a.jsonl", "gs://words/books": "gs://words/books/a.jsonl"}.get(spec, spec)
    name = name.replace("**", "in/it").replace("*", "a")
    data = packed(as_kind(str(kind_of(name)), documents), Path(name).suffix)
    if "://" in spec:
        request.getfixturevalue(spec[:2])
        put(name, data)
    else:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)
    assert list(Source(spec).documents()) == documents


def test_there_is_an_example_of_every_kind():
    assert {one.partition(":")[0] for one in EXAMPLES if ":" in one} == {"stories", "s3", "gs", "https"}
    assert {codec_of(one) for one in EXAMPLES} == {None, "gzip", "zstd"} and len(EXAMPLES) == 9


def test_globs_take_whole_names_in_order_and_leave_out_hidden_ones(tmp_path, monkeypatch):
    for name in (
        "b.jsonl",
        "a-b.jsonl",
        "a/b.jsonl",
        "a/train/c.jsonl",
        "a/.x/c.jsonl",
        "_c.jsonl",
        "a.csv",
        "README.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(line(name))
    monkeypatch.chdir(tmp_path)

    def names(spec: str) -> list[str]:
        return [file.name for files in splits_of(spec).values() for file in files]

    assert names("*.jsonl") == ["a-b.jsonl", "b.jsonl"]
    assert names("[!a]*.jsonl") == ["b.jsonl"]
    assert names("a/**") == names("a/**/*.jsonl") == names("a") == ["train/c.jsonl"]
    assert names(f"{tmp_path}/a/*.jsonl") == ["b.jsonl"]
    assert names("?.csv") == ["a.csv"]
    with pytest.raises(SourceError, match=r"mixes csv and jsonl files"):
        names("*")
    for nothing in ("x*.jsonl", "*.md", "nowhere/*/*.csv"):
        with pytest.raises(SourceError, match=r"no .parquet, .* among the files that this matches"):
            names(nothing)


def test_a_file_whose_name_looks_like_a_glob(tmp_path):
    (tmp_path / "a[1].jsonl").write_text(line("one"))
    assert list(Source(str(tmp_path / "a[1].jsonl")).documents()) == ["one"]


def test_plain_and_compressed_files_of_a_format_go_together(tmp_path):
    for name in ("train-0.jsonl", "train-1.jsonl.gz", "train-2.ndjson.zst", "valid-0.json"):
        data = f"{line(name)}\n".encode()
        (tmp_path / name).write_bytes(packed(data, Path(name).suffix))
    assert [len(files) for files in splits_of(str(tmp_path)).values()] == [3, 1]
    assert list(Source(str(tmp_path), split="train[1:]+validation").documents()) == [
        "train-1.jsonl.gz",
        "train-2.ndjson.zst",
        "valid-0.json",
    ]


@pytest.mark.parametrize(
    ("name", "split"),
    [("train.jsonl.gz", "train"), ("x/dev/a.csv", "validation"), ("latest.txt", ""), ("a_test.txt.zst", "test")],
)
def test_splits_in_names(name, split):
    assert split_named(name) == split


def test_counting_stops_where_a_slice_ends(tmp_path):
    """Behind train[:3] nothing is read, not even what could not be."""
    (tmp_path / "a.jsonl").write_text("\n".join(line(str(i)) for i in range(2)))
    (tmp_path / "b.jsonl").write_text(line("2") + "\n" + line("3") + "\n" + '{"text": \n')
    (tmp_path / "c.jsonl.gz").write_bytes(b"not gzip")
    assert list(Source(str(tmp_path), split="train[1:3]").documents()) == ["1", "2"]
    with pytest.raises(SourceError, match=r"c.jsonl.gz: damaged"):
        list(Source(str(tmp_path), split="train[:90%]").documents())
