"""Datasets on the Hub: the same files as the datasets library takes, one commit for a job, and only what is needed."""

from __future__ import annotations

import gzip
import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import TINY, TINY_MODELS, call, odd_documents
from hub_server import Answer, HubServer
from suite.base.errors import HubError, SourceError, TokensError
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


@pytest.fixture
def stories(hub, tmp_path) -> str:
    """A dataset of two configs and two formats: parquet with a wide column that nobody reads, and jsonl.gz."""
    folder, texts = tmp_path / "repo", odd_documents(1200)
    (folder / "web").mkdir(parents=True)
    (folder / "books").mkdir()
    for part in range(2):
        some = texts[600 * part : 600 * part + 600]
        wide = [random.Random(i).randbytes(10_000) for i in range(len(some))]
        table = pa.table({"wide": wide, "text": some})
        pq.write_table(table, folder / f"web/{part}.parquet", row_group_size=200, compression="none")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "books" / "all.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    readme = card(config("web", "default: true", "data_files: web/*"), config("books", "data_files: books/*"))
    (folder / "README.md").write_text(readme)
    return hub.add("some/stories", folder)


def job(tokenizer_dir, out: Path, *more: object) -> list:
    return ["-t", tokenizer_dir, "-l", 64, "-c", 200, "--block-bytes", 20_000, "--out-dir", out, *more]


def entry(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())["splits"]["train"]


def test_a_dataset_gives_the_shards_of_its_texts_and_only_what_is_needed_is_read(hub, stories, tokenizer_dir, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in odd_documents(1200)))
    call("tokenize", "-i", texts, *job(tokenizer_dir, tmp_path / "local"))
    local = entry(tmp_path / "local")
    for name, spec in (("web", REPO), ("books", f"hf://datasets/{REPO}@main"), ("glob", f"hf://datasets/{REPO}/web/*")):
        hub.requests.clear()
        flags = ["--config", name] if name == "books" else []
        call("tokenize", "-i", spec, *flags, *job(tokenizer_dir, tmp_path / name))
        found = entry(tmp_path / name)
        assert [shard["sha256"] for shard in found["shards"]] == [shard["sha256"] for shard in local["shards"]], name
        assert name == "glob" or f"commit={stories}" in found["source"]
        assert stories in "".join(one.path for one in hub.asked("GET", "resolve"))
        assert not hub.asked("GET", "resolve/main/(web|books)")
        sent = sum(one.sent for one in hub.asked("GET", r"resolve.*(parquet|gz)$"))
        size = sum(file.size for path, file in hub.repo(REPO).files().items() if path.startswith(("web/", "books/")))
        assert name == "books" or sent < size / 8, (name, sent, size)


def test_a_slice_reads_its_row_groups_alone(hub, stories, tokenizer_dir, tmp_path):
    call("tokenize", "-i", REPO, *job(tokenizer_dir, tmp_path / "tokens"), "-s", "train[:100]")
    assert entry(tmp_path / "tokens")["documents"] == 100
    ranges = [one.headers["range"] for one in hub.asked("GET", r"resolve.*1\.parquet")]
    assert not ranges  # train[:100] lies in the first file


def test_tokens_stay_good_when_the_dataset_moves_on_or_the_network_goes(
    hub, stories, tokenizer_dir, tmp_path, monkeypatch
):
    common = job(tokenizer_dir, tmp_path / "tokens", "-i", REPO)
    call("tokenize", *common)
    (tmp_path / "repo" / "NOTES").write_text("A new commit, the same data.")
    assert hub.add(REPO, tmp_path / "repo") != stories
    hub_files._asked.clear()
    assert "there already" in call("tokenize", *common)
    (tmp_path / "repo" / "web" / "2.parquet").write_bytes((tmp_path / "repo" / "web" / "0.parquet").read_bytes())
    hub.add(REPO, tmp_path / "repo")
    hub_files._asked.clear()
    with pytest.raises(TokensError, match="is there already, made from some/stories commit="):
        call("tokenize", *common)
    # A run whose node has no network trains on the tokens that are there.
    from suite.training import prepare
    from suite.training.config import load_run

    (tmp_path / "run.toml").write_text(f'name = "r"\n{TINY}[model]\n{TINY_MODELS["llama"]}')
    shutil.copytree(tokenizer_dir, tmp_path / "tokenizer")
    changes = [f"root={tmp_path}", "data.tokens=tokens", "data.tokenizer=tokenizer", f"data.source={REPO}"]
    changes += ["data.seq_len=64"]
    hub_files._asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    config_ = load_run([tmp_path / "run.toml"], changes)
    assert prepare.missing_splits(config_) == ["validation"]


def test_what_cannot_be_read_names_the_dataset(hub, stories, tokenizer_dir, tmp_path):
    common = job(tokenizer_dir, tmp_path / "tokens")
    for flags, line in (
        (["-i", REPO, "--config", "films"], r"no config 'films'; it has web, books"),
        (["-i", REPO, "-s", "test"], r"some/stories: no split 'test'; it has train"),
        (["-i", REPO, "-f", "story"], r"no column 'story'; it has wide, text"),
        (["-i", "some/nothing"], r"some/nothing: no such file or folder here, nor such a dataset on the Hub"),
        (["-i", tmp_path, "--config", "web"], r"only a dataset on the Hub, OWNER/NAME, has configs"),
        (["-i", f"hf://datasets/{REPO}/none/*.parquet"], r"no such file or folder"),
    ):
        with pytest.raises((SourceError, HubError), match=line):
            call("tokenize", *flags, *common)
    assert not (tmp_path / "tokens" / "manifest.json").exists()
    hub.fault = lambda request: Answer(403) if "resolve" in request.path and "parquet" in request.path else None
    with pytest.raises(SourceError, match=r"web/0.parquet: the token may not"):
        call("tokenize", "-i", REPO, *common)
