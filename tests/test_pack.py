"""Rows and shards: a slow and obvious definition, and everything that must not change them."""

from __future__ import annotations

import random
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import odd_documents
from suite import _core
from suite.base.errors import SourceError, TokensError
from suite.data import pack, shards, tokenizer
from suite.data.encode import Encoded, Shape
from suite.data.source import Source
from suite.data.spill import two_passes
from suite.data.texts import Texts
from suite.executor.local import map_in_order, map_in_threads

BOS, EOS = 0, 1


def slow_rows(documents: list[list[int]], seq_len: int, overlap: int) -> list[list[int]]:
    """The definition: <eos> after every document; rows of <bos> and seq_len-1 tokens, every stride tokens."""
    stream = [token for document in documents for token in [*document, EOS]]
    content = seq_len - 1
    starts = range(0, len(stream) - content + 1, content - overlap)
    return [[BOS, *stream[start : start + content]] for start in starts]


def packed(pieces: list[list[int]], folder: Path, vocab_size: int = 1000, **shape: int) -> list[Path]:
    packer = _core.Packer(folder, "train", bos=BOS, vocab_size=vocab_size, **shape)
    for piece in pieces:
        packer.push(np.array(piece, np.uint16 if vocab_size <= 1 << 16 else np.uint32))
    infos, _ = packer.finish()
    return [folder / name for name, *_ in infos]


def rows_in(paths: list[Path]) -> list[list[int]]:
    return [row for path in paths for row in pq.read_table(path)["tokens"].to_pylist()]


shapes = st.integers(2, 12).flatmap(
    lambda seq_len: st.fixed_dictionaries(
        {"seq_len": st.just(seq_len), "overlap": st.integers(0, seq_len - 2), "rows_per_shard": st.integers(1, 9)}
    )
)
some_documents = st.lists(st.lists(st.integers(3, 999), max_size=20), max_size=30)


@settings(max_examples=40, deadline=None)
@given(documents=some_documents, shape=shapes, cuts=st.randoms(use_true_random=False))
def test_rows_are_the_definition_however_the_stream_is_cut(tmp_path_factory, documents, shape, cuts):
    folder = tmp_path_factory.mktemp("shards")
    stream = [token for document in documents for token in [*document, EOS]]
    marks = sorted(cuts.randrange(len(stream) + 1) for _ in range(cuts.randrange(6)))
    pieces = [stream[a:b] for a, b in zip([0, *marks], [*marks, len(stream)], strict=True)]
    assert rows_in(packed(pieces, folder, **shape)) == slow_rows(documents, shape["seq_len"], shape["overlap"])


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 50), max_size=12), shape=shapes)
def test_the_plan_covers_every_row_once_and_each_span_makes_its_rows(tmp_path_factory, counts, shape):
    """What lets any worker cut any shard on its own: the span alone gives the same file as the whole stream."""
    stream = [3 + i % 900 for i in range(sum(counts))]
    rows, dropped, spans = _core.plan(counts, shape["seq_len"], shape["overlap"], shape["rows_per_shard"])
    assert [span[0] for span in spans] == list(accumulate([0, *(span[1] for span in spans)]))[: len(spans)]
    assert sum(span[1] for span in spans) == rows
    last = spans[-1][3] if spans else 0
    assert dropped == len(stream) - last
    folder = tmp_path_factory.mktemp("shards")
    (folder / "whole").mkdir()
    (folder / "alone").mkdir()
    whole = packed([stream], folder / "whole", **shape)
    assert len(whole) == len(spans)
    for number, (path, (_, _, start, stop)) in enumerate(zip(whole, spans, strict=True)):
        packer = _core.Packer(folder / "alone", "train", bos=BOS, vocab_size=1000, first_shard=number, **shape)
        packer.push(np.array(stream[start:stop], np.uint16))
        assert packer.finish()[0][0][0] == path.name
        assert (folder / "alone" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("vocab_size", "kind"), [(1000, pa.uint16()), (70_000, pa.uint32())])
def test_a_shard_is_one_column_of_fixed_size_lists(tmp_path, vocab_size, kind):
    top = vocab_size - 1
    [path] = packed([[5, top, 7, 8, 9, EOS]], tmp_path, vocab_size, seq_len=4, overlap=0, rows_per_shard=9)
    column = pq.read_table(path).schema.field("tokens")
    assert column.type == pa.list_(pa.field("element", kind, nullable=False), 4)
    assert rows_in([path]) == [[BOS, 5, top, 7], [BOS, 8, 9, EOS]]
    assert pq.ParquetFile(path).metadata.row_group(0).column(0).compression == "ZSTD"
    data = _core.read_shard(path, 4, vocab_size > 1 << 16, None)
    assert np.frombuffer(data, kind.to_pandas_dtype()).tolist() == [BOS, 5, top, 7, BOS, 8, 9, EOS]


def test_rows_longer_than_a_row_group_and_shard_edges(tmp_path):
    """Row groups hold 4,096 rows: their edges and the shards' must not shift a row."""
    stream = [3 + i % 997 for i in range(3 * 10_000 + 1)]
    paths = packed([stream[:777], stream[777:]], tmp_path, seq_len=4, overlap=0, rows_per_shard=9_000)
    assert [pq.ParquetFile(path).metadata.num_row_groups for path in paths] == [3, 1]
    assert np.array_equal(np.array(rows_in(paths))[:, 1:].reshape(-1), stream[:30_000])


def test_an_id_beyond_the_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="token id 1000 is beyond the vocabulary of 1000"):
        packed([[5, 1000]], tmp_path, seq_len=4, overlap=0, rows_per_shard=9)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seq_len", [0, 1])
def test_too_short_rows_are_refused(seq_len):
    with pytest.raises(TokensError, match="seq_len"):
        Shape(seq_len)


# ── from documents ──


def shuffled_arrival(function, items):
    """Blocks encoded in another order than their numbers', as a cluster would."""
    order = list(range(len(items)))
    random.Random(4).shuffle(order)
    results = {number: function(items[number]) for number in order}
    return (results[number] for number in range(len(items)))


def tokenized(
    corpus: Path, tokenizer_dir: Path, folder: Path, map_in_order, way=pack.one_pass, **options
) -> shards.Tokens:
    shape = Shape(16, rows_per_shard=150)
    tokens, _ = pack.tokenize(
        Source(str(corpus)), tokenizer.load(tokenizer_dir), folder, shape, way(map_in_order), name="train", **options
    )
    return tokens


@pytest.mark.parametrize("slow", [False, True], ids=["ours", "library"])
@pytest.mark.parametrize(
    ("mapping", "block_bytes", "batch_size"),
    [
        (map, 10**9, 50),
        (map, 1, 1),
        (map_in_threads(2), 500, 50),
        (map_in_threads(3), 4000, 2),
        (map_in_order(2), 997, 7),
    ],
    ids=["at-once", "one-by-one", "2-threads", "3-threads", "2-processes"],
)
def test_shards_do_not_depend_on_how_work_was_split(
    corpus, tokenizer_dir, tmp_path, monkeypatch, mapping, block_bytes, batch_size, slow
):
    """Nor on who encodes: our encoder or the tokenizers library."""
    if slow:
        monkeypatch.setattr(pack, "must_be_slow", lambda texts, encoder: True)
    options = {"block_bytes": block_bytes, "batch_size": batch_size}
    tokens = tokenized(corpus, tokenizer_dir, tmp_path, mapping, **options)
    assert [(shard.name, shard.rows, shard.sha256[:16]) for shard in tokens.split("train").shards] == PINNED


def test_shards_do_not_depend_on_the_order_of_arrival(corpus, tokenizer_dir, tmp_path):
    tokens = tokenized(corpus, tokenizer_dir, tmp_path, shuffled_arrival, block_bytes=700)
    assert [(shard.name, shard.rows, shard.sha256[:16]) for shard in tokens.split("train").shards] == PINNED


def shuffled_results(function, items):
    """Results as they come on a cluster: in any order, and one task done twice."""
    results = [function(item) for item in [*items, items[0]]]
    random.Random(5).shuffle(results)
    return iter(results)


@pytest.mark.parametrize("block_bytes", [1, 997, 10**9])
@pytest.mark.parametrize("anywhere", [map, shuffled_results, map_in_order(2)], ids=["map", "shuffled", "processes"])
def test_two_passes_give_the_same_shards(corpus, tokenizer_dir, tmp_path, anywhere, block_bytes):
    tokens = tokenized(corpus, tokenizer_dir, tmp_path, anywhere, two_passes, block_bytes=block_bytes)
    assert [(shard.name, shard.rows, shard.sha256[:16]) for shard in tokens.split("train").shards] == PINNED
    assert not list(tmp_path.glob(".part*"))
    one = tokenized(corpus, tokenizer_dir, tmp_path / "one", map)
    assert one.split("train") == tokens.split("train")


def test_tokenized_documents_are_the_definition(corpus, tokenizer_dir, tmp_path):
    tokens = tokenized(corpus, tokenizer_dir, tmp_path, map)
    encoder = tokenizer.load(tokenizer_dir)
    documents = odd_documents(300)
    ids = [encoder.encode(document) for document in documents]
    assert tokens.rows("train").tolist() == slow_rows(ids, 16, 0)
    entry = tokens.split("train")
    assert (entry.documents, entry.tokens) == (300, sum(map(len, ids)) + 300)
    whole = tokens.documents("train")
    assert [encoder.decode(document[:-1]) for document in whole] == documents[: len(whole)]
    assert len(whole) >= 298  # only what was in the dropped tail is missing


def test_a_special_tokens_name_in_a_document_is_text(tokenizer_dir):
    encoder = tokenizer.load(tokenizer_dir)
    assert encoder.stream(Texts.of(["<eos>"])).tolist().count(encoder.special.eos) == 1


def test_a_killed_worker_changes_nothing(corpus, tokenizer_dir, tmp_path):
    """SIGKILL of the process that encodes the third block, once: its work is done again, the bytes are the same."""
    from functools import partial

    from kill_once import encode_or_die

    def map_with_death(function, items):
        listed = list(items)
        doomed = partial(encode_or_die, function, listed[2], tmp_path / "died")
        return map_in_order(2)(doomed, listed)

    tokens = tokenized(corpus, tokenizer_dir, tmp_path / "tokens", map_with_death, block_bytes=2000)
    assert (tmp_path / "died").exists()
    assert [(shard.name, shard.rows, shard.sha256[:16]) for shard in tokens.split("train").shards] == PINNED


def test_a_second_run_finds_the_split_there(corpus, tokenizer_dir, tmp_path):
    first = tokenized(corpus, tokenizer_dir, tmp_path, map)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")}
    again, written = pack.tokenize(
        Source(str(corpus)),
        tokenizer.load(tokenizer_dir),
        tmp_path,
        Shape(16, rows_per_shard=150),
        pack.one_pass(map),
        name="train",
    )
    assert (again, written) == (first, False)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.parquet")} == before


def test_the_same_name_from_other_text_is_refused(corpus, tokenizer_dir, tmp_path):
    tokenized(corpus, tokenizer_dir, tmp_path, map)
    other = Source(str(corpus), split="train[:50%]")
    shape = Shape(16, rows_per_shard=150)
    with pytest.raises(TokensError, match="--as NAME"):
        pack.tokenize(other, tokenizer.load(tokenizer_dir), tmp_path, shape, pack.one_pass(map), name="train")
    tokens, written = pack.tokenize(
        other, tokenizer.load(tokenizer_dir), tmp_path, shape, pack.one_pass(map), name="half"
    )
    assert written and set(tokens.splits) == {"train", "half"}


def test_nothing_is_sealed_when_a_block_fails(corpus, tokenizer_dir, tmp_path):
    def fails_late(function, items) -> list[Encoded]:
        yield from map(function, list(items)[:2])
        raise SourceError("a null")

    with pytest.raises(SourceError):
        tokenized(corpus, tokenizer_dir, tmp_path / "new", fails_late, block_bytes=500)
    assert not (tmp_path / "new").exists()
    before = tokenized(corpus, tokenizer_dir, tmp_path / "old", map)
    with pytest.raises(SourceError):
        pack.tokenize(
            Source(str(corpus)),
            tokenizer.load(tokenizer_dir),
            tmp_path / "old",
            Shape(16, rows_per_shard=150),
            pack.one_pass(fails_late),
            name="train-more",
            block_bytes=500,
        )
    assert shards.read(tmp_path / "old") == before and before.rows("train").size


def test_a_corpus_shorter_than_one_row_gives_no_rows(tokenizer_dir, tmp_path):
    (tmp_path / "short.txt").write_text("two words")
    tokens, _ = pack.tokenize(
        Source(str(tmp_path / "short.txt")),
        tokenizer.load(tokenizer_dir),
        tmp_path / "t",
        Shape(512),
        pack.one_pass(map),
        name="train",
    )
    entry = tokens.split("train")
    assert (entry.rows, entry.shards, entry.dropped_tokens) == (0, (), entry.tokens)


# Change these only together with the shards' format (data/shards.py) or the zstd and parquet versions in Cargo.lock.
PINNED = [
    ("train-00000.parquet", 150, "5a7354e79ff7ab72"),
    ("train-00001.parquet", 150, "fabe1653bfa63153"),
    ("train-00002.parquet", 150, "66e72d05f94c6842"),
    ("train-00003.parquet", 150, "b1092bab1e4ebd61"),
    ("train-00004.parquet", 21, "aad2c639b31f3282"),
]


def test_load_dataset_reads_integers(corpus, tokenizer_dir, tmp_path):
    import datasets

    tokens = tokenized(corpus, tokenizer_dir, tmp_path / "t", map)
    for options in (
        {"path": "parquet", "data_files": str(tmp_path / "t" / "train-*.parquet")},
        {"path": str(tmp_path / "t")},
    ):
        rows = datasets.load_dataset(**options, split="train", cache_dir=str(tmp_path / "cache"))
        assert rows.features["tokens"].feature.dtype == "uint16" and rows.features["tokens"].length == 16
        assert np.array_equal(np.array(rows["tokens"]), tokens.rows("train"))
