"""A tokenization that died anywhere and is run again: only what is missing is done, and the bytes are the same."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import call, odd_documents
from suite.base.errors import SourceError
from suite.data import pack, shards, tokenizer
from suite.data.encode import Shape
from suite.data.source import Source
from suite.data.spill import two_passes

BLOCKS = 24


class PowerCut(BaseException):
    """Not an error of ours: nothing is tidied up, as if the process were gone."""


def dying(after: int, seen: list[object]):
    """A map that ends the process, as far as anyone can tell, after so many items; `seen` learns what was begun."""

    def run(function, items):
        for item in items:
            if len(seen) == after:
                raise PowerCut
            seen.append(item)
            yield function(item)

    return run


def tokenized(corpus: Path, tokenizer_dir: Path, folder: Path, work, **options) -> shards.Tokens:
    size = sum(block.stop - block.start for block in Source(str(corpus)).blocks())
    options = {"block_bytes": size // BLOCKS, **options}
    shape = Shape(16, rows_per_shard=100)
    encoder = tokenizer.load(tokenizer_dir)
    return pack.tokenize(Source(str(corpus)), encoder, folder, shape, work, name="train", **options)[0]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.fixture(scope="module")
def whole(corpus, tokenizer_dir, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    tokenized(corpus, tokenizer_dir, folder, pack.one_pass(map))
    return contents(folder)


@settings(max_examples=15, deadline=None)
@given(deaths=st.lists(st.integers(0, BLOCKS), min_size=1, max_size=3))
def test_one_pass_goes_on_from_its_last_whole_shard(corpus, tokenizer_dir, whole, tmp_path_factory, deaths):
    folder = tmp_path_factory.mktemp("tokens")
    for death in deaths:
        try:
            tokenized(corpus, tokenizer_dir, folder, pack.one_pass(dying(death, [])))
        except PowerCut:
            assert not (folder / "manifest.json").exists() and not list(folder.glob("*.parquet"))
    tokenized(corpus, tokenizer_dir, folder, pack.one_pass(map))
    assert contents(folder) == whole


def test_what_is_in_whole_shards_is_not_read_again(corpus, tokenizer_dir, tmp_path):
    begun: list[object] = []
    with pytest.raises(PowerCut):
        tokenized(corpus, tokenizer_dir, tmp_path, pack.one_pass(dying(BLOCKS - 2, begun)))
    stand = {path.name: path.stat().st_ino for path in (tmp_path / ".part-train").glob("train-*.parquet")}
    assert len(stand) > 3
    again: list[object] = []
    tokenized(corpus, tokenizer_dir, tmp_path, pack.one_pass(dying(-1, again)))
    assert 1 <= len(again) < BLOCKS / 2
    assert {name: (tmp_path / name).stat().st_ino for name in stand} == stand  # the same files, moved


@settings(max_examples=10, deadline=None)
@given(deaths=st.lists(st.integers(0, BLOCKS + 8), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_two_passes_do_only_the_blocks_and_shards_that_are_missing(
    corpus, tokenizer_dir, whole, tmp_path_factory, deaths, seed
):
    folder = tmp_path_factory.mktemp("tokens")

    def shuffled(way):
        def run(function, items):
            items = list(items)
            random.Random(seed).shuffle(items)
            return way(function, items)

        return run

    done: list[object] = []
    for death in [*deaths, -1]:
        seen: list[object] = []
        try:
            tokenized(corpus, tokenizer_dir, folder, two_passes(shuffled(dying(death, seen))))
        except PowerCut:
            assert not (folder / "manifest.json").exists()
        done += seen
    assert contents(folder) == whole
    assert len(done) == len({repr(one) for one in done}), "something was done twice"


@pytest.mark.parametrize("way", [pack.one_pass, two_passes])
def test_a_file_that_was_damaged_meanwhile_is_made_again(corpus, tokenizer_dir, whole, tmp_path, way):
    with pytest.raises(PowerCut):
        tokenized(corpus, tokenizer_dir, tmp_path, way(dying(BLOCKS - 3 if way is pack.one_pass else BLOCKS + 3, [])))
    second = tmp_path / ".part-train" / "train-00001.parquet"
    second.write_bytes(second.read_bytes()[:-1] + b"x")
    for name in ("blocks.jsonl", "shards.jsonl"):  # and the last lines were cut short
        if (record := tmp_path / ".part-train" / name).is_file():
            record.write_bytes(record.read_bytes()[:-3])
    tokenized(corpus, tokenizer_dir, tmp_path, way(map))
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("name", ["train-00001.parquet", "train.documents"])
def test_a_file_that_is_lost_or_cut_short_is_made_again(corpus, tokenizer_dir, whole, tmp_path, name):
    tokenized(corpus, tokenizer_dir, tmp_path, pack.one_pass(map))
    for damage in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])):
        damage(tmp_path / name)
        tokenized(corpus, tokenizer_dir, tmp_path, pack.one_pass(map))
        assert contents(tmp_path) == whole


def test_another_job_begins_anew(corpus, tokenizer_dir, tmp_path):
    with pytest.raises(PowerCut):
        tokenized(corpus, tokenizer_dir, tmp_path, pack.one_pass(dying(20, [])))
    begun: list[object] = []
    tokenized(corpus, tokenizer_dir, tmp_path, pack.one_pass(dying(-1, begun)), block_bytes=1)
    assert len(begun) > 100


def test_duplicates_are_still_known_after_a_death(tokenizer_dir, tmp_path):
    documents = [document for document in odd_documents(200) for _ in range(2)]
    random.Random(1).shuffle(documents)
    (tmp_path / "twice.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))
    for folder, deaths in (("whole", []), ("cut", [9, 6, 4])):
        for death in deaths:
            with pytest.raises(PowerCut):
                work = pack.one_pass(dying(death, []))
                tokenized(tmp_path / "twice.jsonl", tokenizer_dir, tmp_path / folder, work, deduplicate=True)
        work = pack.one_pass(map)
        tokens = tokenized(tmp_path / "twice.jsonl", tokenizer_dir, tmp_path / folder, work, deduplicate=True)
        assert tokens.split("train").duplicates >= 200
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_mistake_leaves_nothing(corpus, tokenizer_dir, tmp_path):
    def refused(function, items):
        yield from map(function, list(items)[:12])
        raise SourceError("row 7 is null")

    with pytest.raises(SourceError):
        tokenized(corpus, tokenizer_dir, tmp_path / "tokens", pack.one_pass(refused))
    assert not (tmp_path / "tokens").exists()


def test_sigkill_of_the_real_command(tmp_path):
    """Killed at five moments, then left alone; the last of them still finds shards to go on from."""
    call("train_tokenizer", "-i", "stories:300", "-v", "300", "--out-dir", tmp_path / "tok")
    arguments = ["-i", "stories:30000", "-t", tmp_path / "tok", "-l", "64", "-c", "500", "--block-bytes", "40000"]
    command = [sys.executable, "-m", "suite.tokenize", *map(str, arguments), "--workers", "2"]
    call("tokenize", *arguments, "--out-dir", tmp_path / "whole")
    part = tmp_path / "cut" / ".part-train"
    for number in range(1, 6):
        process = subprocess.Popen([*command, "--out-dir", str(tmp_path / "cut")], stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(part.glob("train-*.parquet"))) < number * 12:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert part.is_dir() and not (tmp_path / "cut" / "manifest.json").exists()
    call("tokenize", *arguments, "--out-dir", tmp_path / "cut")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
