"""Where a text stands in tokens, which steps read it, and which documents two splits share: against plain search."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import call, refusal, run_suite
from suite.data import pack, shards, stream, tokenizer
from suite.data.batches import batch_rows, steps_of
from suite.data.encode import Shape
from suite.data.source import Source

DOCUMENTS = ["the cat sat", "a cat", "", "the cat sat on the mat " * 9, "ämél cätcat", "x", "the dog"] * 4


@pytest.fixture(scope="module", params=["stream", "overlapping", "documents"])
def tokens(request, tokenizer_dir, tmp_path_factory) -> shards.Tokens:
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in DOCUMENTS))
    shape = {
        "stream": Shape(7, rows_per_shard=9),
        "overlapping": Shape(7, 3, 9),
        "documents": Shape(7, 0, 9, "documents"),
    }[request.param]
    source, encoder = Source(str(folder / "text.jsonl")), tokenizer.load(tokenizer_dir)
    made, _ = pack.tokenize(source, encoder, folder / "t", shape, pack.one_pass(map), name="train")
    return made


def slow_places(text: str, tokens: shards.Tokens, encoder: tokenizer.Tokenizer) -> list[tuple[int, list[int]]]:
    """By Python's own search in each document, and the rows that hold the tokens of each place."""
    content, found, position = tokens.seq_len - 1, [], 0
    stride = content - tokens.overlap
    for number, document in enumerate(DOCUMENTS):
        ids = encoder.encode(document)
        spelled = encoder.bytes_of_ids()
        if tokens.layout == "documents":
            ids, position = ids[:content], number * content
        owner = [position + k for k, token in enumerate(ids) for _ in spelled[token]]
        data, at = b"".join(spelled[token] for token in ids), -1
        while (at := data.find(text.encode(), at + 1)) >= 0:
            first, last = owner[at], owner[at + len(text.encode()) - 1]
            rows = [k for k in range(tokens.split("train").rows) if k * stride <= last and first < k * stride + content]
            found.append((number, rows))
            at += len(text.encode()) - 1
        position += len(ids) + 1
    return found


@pytest.mark.parametrize("text", ["cat", "c", "the cat sat on", "at on the mat the cat", "é", "cätca", "dog", "catthe"])
@pytest.mark.parametrize("slice_rows", [1, 2, 4096])
def test_places_are_those_of_plain_search(tokens, tokenizer_dir, text, slice_rows, monkeypatch):
    monkeypatch.setattr(stream, "SLICE_ROWS", slice_rows)
    encoder = tokenizer.load(tokenizer_dir)
    places = [(place.document, list(place.rows)) for place in stream.places_of(text, tokens, "train", encoder)]
    kept = tokens.split("train").rows * (tokens.seq_len - 1)
    expected = [place for place in slow_places(text, tokens, encoder) if place[1] or kept == 0]
    assert places == expected


@settings(max_examples=30, deadline=None)
@given(num_rows=st.integers(1, 40), batch=st.integers(1, 50), steps=st.integers(0, 30), seed=st.integers(0, 9))
def test_steps_of_a_row_are_those_whose_batches_hold_it(num_rows, batch, steps, seed):
    read = [batch_rows(k, 0, 1, batch, num_rows, seed).tolist() for k in range(steps)]
    for row in range(num_rows):
        held = [k for k in range(steps) for one in read[k] if one == row]
        assert steps_of(row, batch, num_rows, seed, steps) == held


def test_documents_cut_by_the_tail_are_said_and_no_document_is_no_success(tokenizer_dir, tmp_path):
    for name, text in (("train", "abc def " * 20), ("validation", "abc def " * 20)):
        (tmp_path / f"{name}.txt").write_text(f"{text}|{'x ' * 40}")
        arguments = ["-t", tokenizer_dir, "-l", "16", "--out-dir", tmp_path / "t", "--as", name]
        call("tokenize", "-i", tmp_path / f"{name}.txt", *arguments, "--separator", "|")
    done = run_suite("overlap", tmp_path / "t", check=False)
    assert "note: validation: 1 not whole in the rows, so not compared" in done.stderr
    assert done.returncode == 1 and "1 of the 1 documents of validation are in train too" in done.stdout
    (tmp_path / "one.txt").write_text("abc def " * 20)
    call("tokenize", "-i", tmp_path / "one.txt", *arguments[:-1], "one")
    assert "no document that is whole in its rows" in refusal("overlap", tmp_path / "t", "-s", "one")


@pytest.mark.parametrize("slice_rows", [1, 3, 4096])
@pytest.mark.parametrize("shape", [Shape(7), Shape(7, 2), Shape(7, 0, 50, "documents")], ids=str)
def test_shared_documents_are_those_with_equal_tokens(tokenizer_dir, tmp_path, monkeypatch, slice_rows, shape):
    monkeypatch.setattr(stream, "SLICE_ROWS", slice_rows)
    draw, encoder = random.Random(3), tokenizer.load(tokenizer_dir)
    texts = {"train": [f"{draw.randrange(40)} and more" for _ in range(60)], "validation": []}
    texts["validation"] = [f"{draw.randrange(80)} and more" for _ in range(20)]
    for name, documents in texts.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in documents))
        source = Source(str(tmp_path / f"{name}.jsonl"))
        tokens, _ = pack.tokenize(source, encoder, tmp_path / "t", shape, pack.one_pass(map), name=name)
    whole = {name: tokens.documents(name) for name in texts}
    theirs = {one.tobytes() for one in whole["train"]}
    mine = [number for number, one in enumerate(whole["validation"]) if one.tobytes() in theirs]
    assert 0 < len(mine) < len(whole["validation"])
    assert stream.overlap(tokens, "validation", "train") == (mine, len(whole["validation"]))
    if slice_rows == 4096 and shape.overlap:
        assert "are in train too" in run_suite("overlap", tmp_path / "t", check=False).stdout


def test_the_steps_of_a_real_run(tmp_path):
    """The rows that `seen` names hold the text, and the batches of the steps that it names hold those rows."""
    run = ["data.source=stories:300", "data.vocab_size=300", "budget.steps=40", "batch.sequences=4", "name=r"]
    quick = ["schedule.warmup_steps=2", "checkpoints.linear=1", "checkpoints.per_octave=0", "eval.rows=4"]
    config = Path(__file__).parents[1] / "configs" / "mamba-100k.toml"
    call("train", config, *run, *quick, "samples.prompts=[]", f"root={tmp_path}")
    tokens = shards.read(next((tmp_path / "tokens").iterdir()))
    encoder, rows = tokenizer.load(tokens.folder / "tokenizer"), tokens.rows("train")
    text = encoder.decode(tokens.documents("train")[7][:12])
    lines = call("seen", text, "--run", tmp_path / "runs" / "r", "--json").splitlines()
    places = [json.loads(line) for line in lines if line.startswith("{")]
    assert 7 in [place["document"] for place in places]
    for place in places:
        assert text in "".join(encoder.decode(rows[row]) for row in place["rows"])
        for step in range(1, 41):
            read = batch_rows(step - 1, 0, 1, 4, len(rows), 0).tolist()
            assert (step in place["steps"]) == bool({*read} & {*place["rows"]})
    missing = run_suite("seen", "no such text", "--tokens", tokens.folder, check=False)
    assert missing.returncode == 1 and "nowhere" in missing.stdout
