"""A trained tokenizer: reversible, special ids first, loadable by transformers, the same ids there."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import odd_documents, run_suite
from suite.data import tokenizer
from suite.data.library import Library


def test_it_loads_with_auto_tokenizer_and_encodes_the_same(tokenizer_dir):
    from transformers import AutoTokenizer

    ours, theirs = tokenizer.load(tokenizer_dir), AutoTokenizer.from_pretrained(tokenizer_dir)
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<bos>", "<eos>", "<pad>")
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 1, 2)
    for document in odd_documents(60):
        ids = ours.encode(document)
        assert ids == theirs(document, add_special_tokens=False, split_special_tokens=True).input_ids
        assert theirs.decode(ids) == document


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_every_text_comes_back(tokenizer_dir, text):
    one = tokenizer.load(tokenizer_dir)
    ids = one.encode(text)
    assert one.decode(ids) == text and not set(ids) & {0, 1, 2}


def test_training_again_gives_the_same_tokenizer(corpus, tokenizer_dir, tmp_path):
    for threads in ("1", "2"):
        env = {**__import__("os").environ, "RAYON_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "true"}
        run_suite("train-tokenizer", "-i", corpus, "-v", "400", "--out-dir", tmp_path / threads, env=env)
        assert (tmp_path / threads / "tokenizer.json").read_bytes() == (tokenizer_dir / "tokenizer.json").read_bytes()


def test_fewer_tokens_than_asked_for_is_said(tmp_path):
    (tmp_path / "a.txt").write_text("ab ab ab")
    done = run_suite("train-tokenizer", "-i", tmp_path / "a.txt", "-v", "9000", "--out-dir", tmp_path / "t")
    assert "too few repeated pairs for more than 26" in done.stderr


def test_its_hash_is_of_what_decides_the_ids(tokenizer_dir, tmp_path):
    one = tokenizer.load(tokenizer_dir)
    content = json.loads((tokenizer_dir / "tokenizer.json").read_text())
    content["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 2}
    content["padding"] |= {"pad_type_id": 0, "pad_token": "<pad>"}
    for name in Library.files:
        if (tokenizer_dir / name).is_file():
            (tmp_path / name).write_text((tokenizer_dir / name).read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert tokenizer.load(tmp_path).sha256 == one.sha256
    content["model"]["merges"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert tokenizer.load(tmp_path).sha256 != one.sha256
