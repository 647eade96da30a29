"""Token parquet made elsewhere, adopted as it lies: by pyarrow, by datasets, in the layouts of published sets."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import call
from suite.base.errors import SuiteError, TokensError
from suite.base.tracker import METRICS, read_records
from suite.data import adopt, shards, stream, tokenizer
from suite.training.estimate import HeldOut


@pytest.fixture(scope="module")
def ids(tiny_root) -> dict[str, np.ndarray]:
    """Rows of 48 tokens of real text by split, and where <eos> stands in them."""
    tokens = shards.read(tiny_root / "tokens" / "tiny")
    return {name: tokens.rows(name).reshape(-1)[: 48 * 60].reshape(-1, 48) for name in ("train", "validation")}


@pytest.fixture(scope="module")
def encoder(tiny_root):
    return tokenizer.load(tiny_root / "tokens" / "tiny" / "tokenizer")


def write(path: Path, rows, kind: pa.DataType, column: str = "tokens", **others) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {column: pa.array([None if row is None else list(row) for row in rows], kind)}
    pq.write_table(pa.table({**table, **others}), path, row_group_size=17)
    return path


def by_pyarrow(folder: Path, ids, kind: pa.DataType) -> str:
    """As delphi's token sets lie on the Hub: data/train-00000-of-00002-1a2b.parquet, a column `tokens`."""
    write(folder / "data" / "train-00000-of-00002-1a2b.parquet", ids["train"][:30], kind)
    write(folder / "data" / "train-00001-of-00002-3c4d.parquet", ids["train"][30:], kind)
    write(folder / "data" / "validation-00000-of-00001-5e6f.parquet", ids["validation"], kind)
    return "tokens"


def by_datasets(folder: Path, ids) -> str:
    """As TeenyTinyLlama's: input_ids, attention_mask and labels, by Dataset.to_parquet."""
    import datasets

    folder.mkdir()
    for name, rows in ids.items():
        columns = {"input_ids": rows.tolist(), "attention_mask": np.ones_like(rows).tolist(), "labels": rows.tolist()}
        datasets.Dataset.from_dict(columns).to_parquet(folder / f"{name}.parquet")
    return "input_ids"


WAYS = {
    "list of int64": lambda folder, ids: by_pyarrow(folder, ids, pa.list_(pa.int64())),
    "list of int32": lambda folder, ids: by_pyarrow(folder, ids, pa.list_(pa.int32())),
    "large list of uint64": lambda folder, ids: by_pyarrow(folder, ids, pa.large_list(pa.uint64())),
    "fixed list of uint16": lambda folder, ids: by_pyarrow(folder, ids, pa.list_(pa.uint16(), 48)),
    "datasets": by_datasets,
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*.parquet")}


@pytest.mark.parametrize("way", WAYS)
def test_rows_are_taken_as_they_are(tmp_path, ids, encoder, way):
    column = WAYS[way](tmp_path / "set", ids)
    before = contents(tmp_path / "set")
    output = call("seal", tmp_path / "set", "--column", column, "--tokenizer", encoder.folder)
    assert f"train: {len(ids['train'])} rows of 48 tokens in" in output
    assert contents(tmp_path / "set") == before
    tokens = shards.read(tmp_path / "set")
    for name, rows in ids.items():
        assert np.array_equal(tokens.rows(name), rows) and tokens.rows(name).dtype == np.uint16
    entry = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert (entry["layout"], entry["column"], entry["seq_len"]) == ("made elsewhere", column, 48)
    for split in entry["splits"].values():
        assert [split[key] for key in ("documents", "text_bytes", "tokens", "dropped_tokens")] == [None] * 4
        for shard in split["shards"]:
            data = (tmp_path / "set" / shard["name"]).read_bytes()
            assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    manifest = (tmp_path / "set" / "manifest.json").read_text()
    call("seal", tmp_path / "set", "--column", column, "--tokenizer", tmp_path / "set" / "tokenizer")  # once more
    assert (tmp_path / "set" / "manifest.json").read_text() == manifest


def test_a_model_trains_on_them(tmp_path, tiny_root, ids, encoder):
    by_pyarrow(tmp_path / "tokens" / "set", ids, pa.list_(pa.int32()))
    call("seal", tmp_path / "tokens" / "set", "--tokenizer", encoder.folder)
    text = (tiny_root / "llama.toml").read_text().replace('source = "stories:300"\n', "")
    (tmp_path / "llama.toml").write_text(text.replace("tokens/tiny", "tokens/set").replace("= 384", "= 48"))
    call("train", tmp_path / "llama.toml", f"root={tmp_path}", "budget.steps=4", "name=run")
    records = read_records(tmp_path / "runs" / "run" / METRICS)
    assert len([one for one in records if "train/loss" in one]) == 4
    assert "batches" not in [thread.name for thread in threading.enumerate()]
    # A shard damaged between two runs, of a set whose rows are in the cache.
    path = tmp_path / "tokens" / "set" / "data" / "train-00001-of-00002-3c4d.parquet"
    path.write_bytes(path.read_bytes().replace(b"PAR1", b"PAR2"))
    with pytest.raises(TokensError, match=r"train-00001-of-00002-3c4d\.parquet: SHA-256 is"):
        call("train", tmp_path / "llama.toml", f"root={tmp_path}", "budget.steps=4", "name=other")


def test_documents_are_what_stands_between_two_ends_in_a_row(tmp_path, encoder):
    bos, eos = encoder.special.bos, encoder.special.eos
    rows = [
        [bos, 9, eos, 10, 11, eos],
        [12, eos, eos, 13, 14, 15],
        [eos, 16, 17, 18, 19, eos],
        [20, 21, 22, 23, 24, 25],
    ]
    write(tmp_path / "validation.parquet", rows, pa.list_(pa.int64()))
    write(tmp_path / "train.parquet", [[bos, 9, 9, eos], [9, 9, 9, eos]], pa.list_(pa.int64()))
    with pytest.raises(TokensError, match="row 0 has 6 tokens, expected 4"):
        adopt.adopt(tmp_path, "tokens", encoder, {})
    write(tmp_path / "train.parquet", [[bos, 9, 9, 9, 9, eos], [9, 9, 9, eos, eos, 9]], pa.list_(pa.int64()))
    tokens, without = adopt.adopt(tmp_path, "tokens", encoder, {})
    assert [one.tolist() for one in tokens.documents("validation")] == [[10, 11, eos], [16, 17, 18, 19, eos]]
    assert list(tokens.documents("train")) == [] and without == ["train"]
    held_out = HeldOut.of(tokens, "train", 5, encoder)  # no document is whole: the rows, from <bos>
    assert [row.tolist() for row in held_out.rows] == [[bos, 9, 9, 9, 9, eos], [bos, 9, 9, 9, eos, eos], [bos, 9]]


GOOD = [[5, 6, 7]] * 40
BAD = {
    "ragged": ([*GOOD, [5, 6]], pa.list_(pa.int64()), "row 40 has 2 tokens, expected 3"),
    "a null row": ([*GOOD[:20], None, *GOOD], pa.list_(pa.int64()), "row 20 is null"),
    "a null first": ([None, *GOOD], pa.list_(pa.int64()), "row 0 is null"),
    "a null token": ([*GOOD[:19], [5, None, 7], *GOOD], pa.list_(pa.int64()), "row 19 has a null at token 1"),
    "beyond the vocabulary": ([*GOOD, [5, 300, 7]], pa.list_(pa.int64()), "row 40 has id 300, the tokenizer's"),
    "far beyond": ([*GOOD, [5, 2**64 - 1, 7]], pa.list_(pa.uint64()), f"row 40 has id {2**64 - 1}"),
    "negative": ([*GOOD, [5, -100, 7]], pa.list_(pa.int32()), "row 40 has id -100"),
    "empty rows": ([[]] * 3, pa.list_(pa.int32()), "row 0 has no tokens"),
    "rows of one": ([[5]] * 3, pa.list_(pa.int32()), "rows of 1 token"),
    "floats": (GOOD, pa.list_(pa.float32()), "is list<element: float>, expected lists of integers"),
    "no lists": ([5, 6], pa.int32(), "is int32, expected lists of integers"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_such_row_is_one_line_naming_file_and_row(tmp_path, encoder, name):
    rows, kind, message = BAD[name]
    column = pa.array(rows, kind)
    pq.write_table(pa.table({"tokens": column}), tmp_path / "train.parquet", row_group_size=17)
    with pytest.raises(TokensError) as caught:
        adopt.adopt(tmp_path, "tokens", encoder, {})
    assert f"{tmp_path / 'train.parquet'}: column 'tokens'" in str(caught.value) and message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "manifest.json").exists() and not (tmp_path / "tokenizer").exists()


def test_wrong_columns_files_and_folders(tmp_path, encoder, tiny_root):
    def refused(folder: Path, *arguments: str) -> str:
        with pytest.raises(SuiteError) as caught:
            call("seal", folder, "--tokenizer", encoder.folder, *arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "no such folder" in refused(tmp_path / "x")
    (tmp_path / "set").mkdir()
    assert "no parquet files in it" in refused(tmp_path / "set")
    path = write(tmp_path / "set" / "train.parquet", GOOD, pa.list_(pa.int64()), "input_ids")
    assert f"{path}: no column 'tokens'; it has input_ids" in refused(tmp_path / "set")
    good = path.read_bytes()
    path.write_bytes(good[:-9])
    assert f"{path}: not a parquet file" in refused(tmp_path / "set", "--column", "input_ids")
    at = good.index(b"PAR1") + 40
    path.write_bytes(good[:at] + b"\xff" * 20 + good[at + 20 :])
    assert f"{path}: " in refused(tmp_path / "set", "--column", "input_ids")
    shutil.copytree(tiny_root / "tokens" / "tiny", tmp_path / "ours")
    assert "made and sealed by `suite tokenize`" in refused(tmp_path / "ours")
    path.write_bytes(good)
    (tmp_path / "set" / "manifest.json").write_text('{"kind": "cooking"}')
    assert "holds 'cooking'" in refused(tmp_path / "set", "--column", "input_ids")


def test_splits_are_named_as_load_dataset_names_them(tmp_path, encoder):
    import datasets

    layouts = (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/extra-00000-of-00001.parquet"],
        ["train.parquet", "dev.parquet"],
        ["my_train_file.parquet", "eval-set.parquet", "valid.parquet"],
        ["training/a.parquet", "training/b.parquet", "testing/a.parquet"],
    )
    for number, names in enumerate(layouts):
        folder = tmp_path / str(number)
        for name in names:
            write(folder / name, [[3, 4, 5, len(name)]] * 2, pa.list_(pa.int64()))
        found = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
        tokens, _ = adopt.adopt(folder, "tokens", encoder, {})
        assert set(tokens.splits) == set(found)
        for name in tokens.splits:
            assert tokens.rows(name).tolist() == found[name]["tokens"]


def test_splits_by_hand(tmp_path, encoder):
    for name in ("part-0", "part-1", "held-out"):
        write(tmp_path / f"{name}.parquet", GOOD, pa.list_(pa.int64()))

    def seal(*splits: str) -> str:
        pairs = [argument for split in splits for argument in ("--split", split)]
        return call("seal", tmp_path, "--tokenizer", encoder.folder, *pairs)

    for splits, message in (
        ([], r"held-out\.parquet: its name says no split"),
        (["train"], "expected NAME=GLOB"),
        (["train=a*", "train=b*"], "each name once"),
        (["train=x*"], r"no file matches 'x\*' of split 'train'"),
        (["train=*", "validation=held*"], r"held-out\.parquet: in two splits, 'train' and 'validation'"),
        (["../x=part*"], "split name"),
        (["train=/etc/*"], "a pattern under"),
    ):
        with pytest.raises(TokensError, match=message):
            seal(*splits)
    seal("train=part-*.parquet", "validation=held*.parquet")
    tokens = shards.read(tmp_path)
    assert {name: [one.name for one in split.shards] for name, split in tokens.splits.items()} == {
        "train": ["part-0.parquet", "part-1.parquet"],
        "validation": ["held-out.parquet"],
    }


def test_a_text_is_found_in_the_rows_that_hold_it(tmp_path, ids, encoder):
    """`suite seen` looks into each row by itself, the first token too: nobody says that the next row goes on."""
    by_pyarrow(tmp_path, ids, pa.list_(pa.int32()))
    tokens, _ = adopt.adopt(tmp_path, "tokens", encoder, {})
    row = ids["train"][7]
    for part, expected in ((row[:9], [7]), (row[-9:], [7]), (np.append(row[-9:], ids["train"][8][:9]), [])):
        text = encoder.decode(part)
        assert "�" not in text
        found = [place.rows for place in stream.places_of(text, tokens, "train", encoder)]
        assert [list(rows) for rows in found if 7 in rows or 8 in rows] == [[number] for number in expected]
