"""Datasets on the Hub: the same files as the datasets library takes, one commit for a job, and only what is needed."""

from __future__ import annotations

import json

import pytest

from hub_server import Answer, HubServer
from suite.base.errors import HubError, SourceError
from suite.data import hub_files
from suite.data.hub_files import dataset, files_of, parse

REPO = "some/stories"


@pytest.fixture(autouse=True)
def library(hub: HubServer, tmp_path, monkeypatch):
    """The datasets library, speaking to the same Hub."""
    import datasets

    for name, value in {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": False,
        "HF_DATASETS_CACHE": tmp_path / "home" / "datasets",
        "HF_MODULES_CACHE": tmp_path / "home" / "modules",
    }.items():
        monkeypatch.setattr(datasets.config, name, value)
    hub_files._asked.clear()
    hub_files.pinned.cache_clear()
    return datasets


def card(*configs: str) -> str:
    return "---\nlicense: mit\n" + ("configs:\n" if configs else "") + "".join(configs) + "---\n# Stories\n"


def config(name: str, *lines: str) -> str:
    return f"- config_name: {name}\n" + "".join(f"  {line}\n" for line in lines)


# What lies in a repo: files, and the card.
SHAPES = {
    "names": (["train.jsonl", "test.jsonl", "notes.txt"], None),
    "sharded": (["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl", "data/odd-00000-of-00001.jsonl"],
                card()),
    "folders": (["train/a.jsonl", "train/b.jsonl", "valid/c.jsonl", "README.txt"], card()),
    "all is train": (["one.jsonl", "two.jsonl", ".hidden.jsonl", "__pycache__/x.jsonl"], None),
    "compressed": (["train.jsonl.gz", "dev.jsonl.gz"], None),
    "card": (["a/x.jsonl", "a/y.jsonl", "b/z.jsonl", "c.jsonl"],
             card(config("default", "data_files:", "- split: train", "  path: a/*", "- split: held", "  path: b/*"))),
    "several": (["a/x.jsonl", "b/z.jsonl", "data/c/train.jsonl", "data/c/test.jsonl"],
                card(config("a", "data_files: a/*"), config("b", "default: true", "data_files: [b/z.jsonl, a/x.jsonl]"),
                     config("c", "data_dir: data/c"))),
    "no default": (["a/x.jsonl", "b/z.jsonl"], card(config("a", "data_files: a/*"), config("b", "data_files: b/*"))),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_the_files_are_those_of_the_datasets_library(hub, library, tmp_path, shape):
    paths, text = SHAPES[shape]
    for number, path in enumerate(paths):
        (tmp_path / "repo" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "repo" / path).write_text(json.dumps({"text": f"story {number}"}) + "\n")
    if text:
        (tmp_path / "repo" / "README.md").write_text(text)
    commit = hub.add(REPO, tmp_path / "repo")
    names = [line.split()[-1] for line in (text or "").splitlines() if "config_name" in line] or [None]
    for name in names:
        theirs = library.load_dataset_builder(REPO, name).config.data_files
        ours = files_of(REPO, name)
        assert {split: [file.url for file in files] for split, files in ours.splits.items()} == dict(theirs)
        assert ours.commit == commit
    if shape == "no default":
        with pytest.raises(SourceError, match=r"several configs: a, b; choose one with --config"):
            files_of(REPO)
        with pytest.raises(SourceError, match=r"no config 'd'; it has a, b"):
            files_of(REPO, "d")


def test_sizes_and_checksums_come_from_the_listing_and_a_job_reads_one_commit(hub, tmp_path):
    (tmp_path / "repo").mkdir()
    for name in ("train.jsonl", "test.jsonl.gz"):
        (tmp_path / "repo" / name).write_text('{"text": "one"}\n')
    first = hub.add(REPO, tmp_path / "repo")
    found = dataset(REPO)
    there = hub.repo(REPO).files()
    for split, name, checksum in (
        ("train", "train.jsonl", there["train.jsonl"].oid),
        ("test", "test.jsonl.gz", there["test.jsonl.gz"].sha256),
    ):
        assert found.splits[split] == [hub_files.HubFile(f"hf://datasets/{REPO}@{first}/{name}", 16, checksum)]
    assert not hub.asked("GET", "resolve.*jsonl")  # nothing is downloaded
    (tmp_path / "repo" / "train.jsonl").write_text('{"text": "two"}\n')
    second = hub.add(REPO, tmp_path / "repo")
    assert dataset(REPO).commit == first != second  # the same process
    hub_files._asked.clear()
    assert dataset(f"{REPO}@main").commit == second and dataset(f"hf://datasets/{REPO}@{first}") == found


def test_what_is_here_comes_before_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("some/stories") == ("some/stories", "main")
    assert parse("hf://datasets/some/stories@refs/pr/1") == ("some/stories", "refs/pr/1")
    for spec in ("stories:20", "some/corpus.jsonl.gz", "./some/stories", "/some/stories", "a/b/c", "stories",
                 "s3://some/stories", "hf://datasets/some/stories@main/data/*.parquet?"):  # fmt: skip
        assert parse(spec) is None or "hf://" in spec, spec
    (tmp_path / "some").mkdir()
    assert parse("some/stories") is None


def test_a_repo_that_is_not_there_is_one_line(hub, tmp_path, monkeypatch):
    with pytest.raises(HubError, match=r"^some/stories: no such file or folder here, nor .* on the Hub \(no such repo"):
        dataset(REPO)
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "LICENSE").write_bytes(b"")
    hub.add(REPO, tmp_path / "repo", private=True)
    with pytest.raises(HubError, match="no such repo, or a private one"):
        dataset(REPO)
    hub.add("tester/stories", tmp_path / "repo", private=True)
    with pytest.raises(HubError, match="no such revision"):
        dataset("tester/stories@v9")
    with pytest.raises(SourceError, match="no data files"):
        dataset("tester/stories")
    hub.fault = lambda request: Answer(503)
    with pytest.raises(HubError, match="in trouble"):
        dataset(REPO)
