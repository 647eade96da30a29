"""Rows that are documents, the index of documents, and documents that are there once: each against its definition."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import call, odd_documents
from suite import _core
from suite.base.errors import TokensError
from suite.data import encode, pack, shards, tokenizer
from suite.data.encode import Shape
from suite.data.source import Source
from suite.data.spill import two_passes
from suite.data.texts import Texts
from suite.executor.local import map_in_order, map_in_threads

WAYS = {
    "at-once": (pack.one_pass(map), 10**9),
    "threads": (pack.one_pass(map_in_threads(2)), 700),
    "processes": (pack.one_pass(map_in_order(2)), 5000),
    "one-by-one": (two_passes(map), 1),
    "backwards": (two_passes(lambda function, items: [function(item) for item in reversed(items)]), 900),
}


def tokenized(spec: str, tokenizer_dir: Path, folder: Path, way: str, shape: Shape, **options) -> shards.Tokens:
    work, block_bytes = WAYS[way]
    encoder = tokenizer.load(tokenizer_dir)
    options = {"name": "train", "block_bytes": block_bytes, **options}
    return pack.tokenize(Source(spec), encoder, folder, shape, work, **options)[0]


def ids_of(documents: list[str], tokenizer_dir: Path) -> list[list[int]]:
    encoder = tokenizer.load(tokenizer_dir)
    return [[*encoder.encode(document), encoder.special.eos] for document in documents]


@pytest.mark.parametrize("way", WAYS)
def test_rows_of_documents_are_cut_or_padded(corpus, tokenizer_dir, tmp_path, way, monkeypatch):
    monkeypatch.setattr(encode, "SLICE_TOKENS", 100)
    seq_len = 12
    tokens = tokenized(str(corpus), tokenizer_dir, tmp_path, way, Shape(seq_len, 0, 70, "documents"))
    ids = ids_of(odd_documents(300), tokenizer_dir)
    rows = [[tokens.bos, *one[: seq_len - 1]] for one in ids]
    padded = [row + [tokens.pad] * (seq_len - len(row)) for row in rows]
    assert tokens.rows("train").tolist() == padded
    entry = tokens.split("train")
    assert (entry.rows, entry.documents, entry.tokens) == (300, 300, sum(len(row) - 1 for row in rows))
    assert entry.dropped_tokens == sum(map(len, ids)) - entry.tokens > 0
    assert tokens.lengths("train").tolist() == [len(one) for one in ids]
    assert [one.tolist() for one in tokens.documents("train")] == [row[1:] for row in rows]


def test_documents_as_rows_need_a_pad_token(corpus, tokenizer_dir, tmp_path):
    folder = tmp_path / "tok"
    tokenizer.load(tokenizer_dir).copy_to(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"pad_token": "<pad>"', '"pad_token": "<eos>"'))
    with pytest.raises(TokensError, match="filled up with a pad token"):
        tokenized(str(corpus), folder, tmp_path / "t", "at-once", Shape(12, 0, 70, "documents"))
    with pytest.raises(TokensError, match="do not overlap"):
        Shape(12, 1, 70, "documents")
    with pytest.raises(TokensError, match="layout 'rows'"):
        Shape(12, layout="rows")


@pytest.mark.parametrize("way", WAYS)
def test_the_index_holds_every_documents_length(corpus, tokenizer_dir, tmp_path, way):
    tokens = tokenized(str(corpus), tokenizer_dir, tmp_path, way, Shape(16))
    index = tokens.split("train").index
    lengths = [len(one) for one in ids_of(odd_documents(300), tokenizer_dir)]
    assert pq.read_table(tmp_path / index.name)["tokens"].to_pylist() == lengths  # as anyone can read it
    assert tokens.lengths("train").tolist() == lengths
    assert sum(lengths) == tokens.split("train").tokens


def test_the_index_is_small(tmp_path):
    """Under 2 % of the shards, on short documents too (stories of 443 bytes)."""
    call("train_tokenizer", "-i", "stories:3000", "-v", "4096", "--out-dir", tmp_path / "tok")
    tokens = tokenized("stories:30000", tmp_path / "tok", tmp_path / "t", "at-once", Shape(512), deduplicate=False)
    entry = tokens.split("train")
    assert entry.index.bytes < 0.02 * sum(shard.bytes for shard in entry.shards)


def test_a_damaged_index_is_refused(corpus, tokenizer_dir, tmp_path):
    tokens = tokenized(str(corpus), tokenizer_dir, tmp_path, "at-once", Shape(16))
    path = tmp_path / tokens.split("train").index.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TokensError, match=r"train\.documents"):
        tokens.lengths("train")
    path.unlink()
    with pytest.raises(TokensError, match=r"train\.documents: missing"):
        tokens.lengths("train")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("layout", ["stream", "documents"])
def test_of_equal_documents_the_first_stays(tokenizer_dir, tmp_path, way, layout, monkeypatch):
    monkeypatch.setattr(encode, "SLICE_TOKENS", 50)
    monkeypatch.setattr(encode, "SPOOL_TOKENS", 200)
    documents = odd_documents(80)
    twice = [documents[number % 80 if number % 3 else number % 7] for number in range(200)]
    (tmp_path / "twice.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in twice))
    once = list(dict.fromkeys(twice))
    (tmp_path / "once.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in once))
    shape = Shape(16, rows_per_shard=50, layout=layout)
    a = tokenized(str(tmp_path / "twice.jsonl"), tokenizer_dir, tmp_path / "a", way, shape, deduplicate=True)
    b = tokenized(str(tmp_path / "once.jsonl"), tokenizer_dir, tmp_path / "b", "at-once", shape)
    mine, theirs = a.split("train"), b.split("train")
    assert (mine.shards, mine.index, mine.text_bytes) == (theirs.shards, theirs.index, theirs.text_bytes)
    assert (mine.documents, mine.duplicates) == (len(once), len(twice) - len(once))
    with pytest.raises(TokensError, match="with other text"):
        tokenized(str(tmp_path / "twice.jsonl"), tokenizer_dir, tmp_path / "a", way, shape)


def test_hashes_are_sha256(tmp_path):
    texts = Texts.of(["", "a", "ä" * 1000])
    digests = _core.text_hashes(*texts)
    assert digests == b"".join(hashlib.sha256(one.encode()).digest()[:16] for one in texts.documents())


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), max_size=30),
    data=st.data(),
    size=st.integers(1, 20),
)
def test_what_is_left_of_a_stream_however_it_is_sliced(lengths, data, size, monkeypatch_module):
    monkeypatch_module.setattr(encode, "SLICE_TOKENS", size)
    kept = data.draw(st.none() | st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths)))
    ids = np.arange(sum(lengths), dtype=np.uint16)
    edges = np.cumsum([0, *lengths])
    left = [
        token
        for number in range(len(lengths))
        if kept is None or kept[number]
        for token in range(edges[number], edges[number + 1])
    ]
    start = data.draw(st.integers(0, len(left) + 1))
    stop = data.draw(st.integers(start, len(left) + 3))
    mask = None if kept is None else np.array(kept, bool)
    slices = encode.stream_of(ids, np.array(lengths, np.int64), mask, start, stop)
    assert [token for one in slices for token in one.tolist()] == left[start:stop]


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_training_on_documents_predicts_their_tokens_alone(tmp_path):
    """A step's loss is that of its documents one by one, and its tokens are theirs, whatever padding is beside them."""
    import torch

    from suite.base.tracker import METRICS, read_records
    from suite.data.batches import batch_rows
    from suite.models.hf import read_folder
    from suite.training.step import nats_of

    config = Path(__file__).parents[1] / "configs" / "mamba-100k.toml"
    run = ["name=r", "data.source=stories:300", "data.vocab_size=300", "data.layout=documents", "data.seq_len=350"]
    quick = ["budget.tokens=30_000", "batch.sequences=6", "schedule.warmup_steps=0", "checkpoints.linear=1"]
    call("train", config, *run, *quick, "eval.rows=4", "samples.prompts=[]", f"root={tmp_path}")
    tokens = shards.read(next((tmp_path / "tokens").iterdir()))
    rows, lengths = tokens.rows("train"), np.minimum(tokens.lengths("train"), 349)
    assert tokens.layout == "documents" and (lengths < 300).any() and (lengths == 349).any()
    records = [one for one in read_records(tmp_path / "runs" / "r" / METRICS) if "train/loss" in one]
    assert len(records) == -(-30_000 // (6 * lengths.mean()))
    seen = 0
    for record in records:
        read = batch_rows(record["step"] - 1, 0, 1, 6, len(rows), 0)
        seen += int(lengths[read].sum())
        assert record["train/tokens"] == seen
    model, _ = read_folder(tmp_path / "runs" / "r" / "step-00000000")
    read = batch_rows(0, 0, 1, 6, len(rows), 0)
    with torch.no_grad():
        alone = [nats_of(model, torch.from_numpy(rows[[row], : lengths[row] + 1].astype(np.int64))) for row in read]
    assert records[0]["train/loss"] == pytest.approx(float(sum(alone)) / lengths[read].sum(), rel=1e-5)
