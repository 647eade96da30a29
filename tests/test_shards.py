"""A damaged shard is an error that names the file: never a wrong token, never a crash. rust/core/tests/shards.rs breaks
bytes by the thousand; here are the kinds of damage, as training meets them."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite import _core
from suite.base.errors import TokensError
from suite.data import shards
from suite.data.shards import Shard, Split, Tokens

BOS, EOS = 0, 1


def sealed(
    folder: Path, stream: list[int], vocab_size: int = 1000, seq_len: int = 8, rows_per_shard: int = 20
) -> Tokens:
    """A token folder of one split `train`, packed from this stream."""
    folder.mkdir(exist_ok=True)
    packer = _core.Packer(
        folder, "train", bos=BOS, vocab_size=vocab_size, seq_len=seq_len, overlap=0, rows_per_shard=rows_per_shard
    )
    packer.push(np.array(stream, np.uint16 if vocab_size <= 1 << 16 else np.uint32))
    made, tokens = packer.finish()
    rows = sum(info[1] for info in made)
    split = Split("a test", "train", "", 1, 1, tokens, rows, 0, tuple(Shard(*info) for info in made))
    found = Tokens(folder, "", vocab_size, BOS, EOS, None, seq_len, 0, rows_per_shard, "stream", {"train": split})
    found.write()
    return found


def rehashed(tokens: Tokens) -> Tokens:
    """As if the manifest agreed with what lies there now: what is left is the reader's own vigilance."""
    split = tokens.split("train")
    made = tuple(
        replace(shard, sha256=hashlib.sha256((tokens.folder / shard.name).read_bytes()).hexdigest())
        for shard in split.shards
    )
    return replace(tokens, splits={"train": replace(split, shards=made)})


@pytest.fixture
def tokens(tmp_path):
    return sealed(tmp_path / "tokens", [3 + i * 7 % 990 for i in range(7 * 50)])


def first(tokens: Tokens) -> Path:
    return tokens.folder / tokens.split("train").shards[0].name


def column(rows: list, kind: pa.DataType, name: str = "tokens") -> pa.Table:
    return pa.table({name: pa.array(rows, kind)})


RAGGED = [[BOS, *range(3, 10)]] * 10 + [[BOS, 5]] + [[BOS, *range(3, 10)]] * 9
WHOLE = [[BOS, *range(3, 10)]] * 20
DAMAGE = {
    "a flipped bit": lambda path, data: path.write_bytes(data[:200] + bytes([data[200] ^ 4]) + data[201:]),
    "a cut": lambda path, data: path.write_bytes(data[:-300]),
    "nothing left": lambda path, data: path.write_bytes(b""),
    "a byte more": lambda path, data: path.write_bytes(data + b"\0"),
    "two shards swapped": lambda path, data: path.write_bytes((path.parent / "train-00001.parquet").read_bytes()),
    "rows of another length": lambda path, data: pq.write_table(column(RAGGED, pa.list_(pa.uint16())), path),
    "nulls": lambda path, data: pq.write_table(column([None, *WHOLE[1:]], pa.list_(pa.uint16())), path),
    "null tokens": lambda path, data: pq.write_table(column([[None] * 8] * 20, pa.list_(pa.uint16(), 8)), path),
    "another column": lambda path, data: pq.write_table(column(WHOLE, pa.list_(pa.uint16()), "ids"), path),
    "wider ids": lambda path, data: pq.write_table(column(WHOLE, pa.list_(pa.uint32())), path),
    "another writer's": lambda path, data: pq.write_table(column(WHOLE, pa.list_(pa.uint16(), 8)), path),
    "no parquet": lambda path, data: path.write_text("parquet? PAR1"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_an_error_that_names_the_file(tokens, damage):
    path = first(tokens)
    DAMAGE[damage](path, path.read_bytes())
    with pytest.raises(TokensError, match=r"train-00000\.parquet: SHA-256 is"):
        tokens.rows("train")


# Without a hash that disagrees, bits may flip into other tokens (the next test), and the manifest orders the shards.
@pytest.mark.parametrize("damage", sorted(DAMAGE.keys() - {"a flipped bit", "two shards swapped"}))
def test_damage_is_an_error_even_where_the_hash_agrees(tokens, damage):
    path = first(tokens)
    DAMAGE[damage](path, path.read_bytes())
    with pytest.raises(TokensError, match=r"train-00000\.parquet: not a token shard: ") as caught:
        rehashed(tokens).rows("train")
    assert "\n" not in str(caught.value)


def test_flipped_bits_without_a_hash_are_refused_or_ids_of_the_vocabulary(tokens):
    """Compressed bytes may change into other tokens, which is what the hash is for; nothing else may come of it."""
    path, draw = first(tokens), random.Random(7)
    good = path.read_bytes()
    for _ in range(300):
        data = bytearray(good)
        for _ in range(draw.randrange(1, 4)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(data)
        out = np.zeros((20, 8), np.uint16)
        try:
            _core.read_shard_into(path, 8, 1000, None, out)
        except ValueError as error:
            assert str(error).startswith(str(path))
        else:
            assert out.max() < 1000


def test_a_wrong_manifest_is_an_error_too(tokens):
    def rows_of(**changes) -> np.ndarray:
        return replace(tokens, **changes).rows("train")

    split = tokens.split("train")
    with pytest.raises(TokensError, match=r"train-00000\.parquet: .*its rows do not all have 7 tokens"):
        rows_of(seq_len=7)
    with pytest.raises(TokensError, match=r"train-00000\.parquet: .*not `tokens`, a list of uint32"):
        rows_of(vocab_size=70_000)
    with pytest.raises(TokensError, match=r"train-00000\.parquet: .*id \d+ is beyond the vocabulary of 500"):
        rows_of(vocab_size=500)
    lying = [replace(split.shards[0], rows=2**40), *split.shards[1:]]
    claims = replace(split, rows=2**40 + 30, shards=tuple(lying))
    with pytest.raises(TokensError, match="no room"):
        rows_of(splits={"train": claims})
    lying = [replace(split.shards[0], rows=21), *split.shards[1:]]
    with pytest.raises(TokensError, match=r"train-00000\.parquet: .*it has 20 rows, the manifest says 21"):
        rows_of(splits={"train": replace(split, rows=51, shards=tuple(lying))})


def test_an_output_that_does_not_fit_is_refused(tokens):
    path = first(tokens)
    for out in (np.zeros(159, np.uint16), np.zeros((20, 16), np.uint16)[:, ::2], np.frombuffer(b"\0" * 320, np.uint16)):
        with pytest.raises(ValueError, match="out: "):
            _core.read_shard_into(path, 8, 1000, None, out)


@settings(max_examples=25, deadline=None)
@given(
    seq_len=st.integers(2, 40),
    rows_per_shard=st.integers(2, 60),
    wide=st.booleans(),
    seed=st.integers(0, 2**32),
    count=st.integers(0, 600),
)
def test_what_was_packed_is_read(tmp_path_factory, seq_len, rows_per_shard, wide, seed, count):
    vocab_size = 2**32 if wide else 2**16
    stream = np.random.default_rng(seed).integers(0, vocab_size, count).tolist()
    tokens = sealed(tmp_path_factory.mktemp("t"), stream, vocab_size, seq_len, rows_per_shard)
    rows = shards.read(tokens.folder).rows("train")
    assert rows.dtype == (np.uint32 if wide else np.uint16) and not rows.flags.writeable
    content = seq_len - 1
    expected = [[BOS, *stream[at : at + content]] for at in range(0, len(stream) - content + 1, content)]
    assert rows.tolist() == expected
    read = np.concatenate([np.array(row[1:], rows.dtype) for row in expected]) if expected else np.empty(0, rows.dtype)
    ends = np.flatnonzero(read == EOS) + 1
    whole = np.split(read[: ends[-1]], ends[:-1]) if len(ends) else []
    assert [one.tolist() for one in tokens.documents("train")] == [one.tolist() for one in whole]


@pytest.mark.parametrize("overlap", [0, 3])
def test_documents_longer_than_what_is_put_together_at_once(tmp_path, monkeypatch, overlap):
    monkeypatch.setattr(shards, "ROWS_AT_ONCE", 2)
    stream = [EOS, *range(3, 60), EOS, 5, EOS, EOS, *range(3, 90), EOS, *range(3, 30)]
    packer = _core.Packer(tmp_path, "train", bos=BOS, vocab_size=99, seq_len=8, overlap=overlap, rows_per_shard=4)
    packer.push(np.array(stream, np.uint16))
    made, count = packer.finish()
    rows = sum(info[1] for info in made)
    split = Split("", "", "", None, None, count, rows, 0, tuple(Shard(*info) for info in made))
    tokens = Tokens(tmp_path, "", 99, BOS, EOS, None, 8, overlap, 4, "stream", {"train": split})
    assert [one.tolist() for one in tokens.documents("train")] == [
        [EOS], [*range(3, 60), EOS], [5, EOS], [EOS], [*range(3, 90), EOS],
    ]  # fmt: skip
