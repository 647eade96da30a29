"""Every mistake of a user's: one clear line, a non-zero exit, nothing half-written. Through the doors, as typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import call, refusal
from suite.base.errors import SuiteError


def said(door: str, *arguments: str | Path) -> str:
    """The error of a door that must refuse."""
    with pytest.raises(SuiteError) as caught:
        call(door, *arguments)
    return str(caught.value)


@pytest.fixture
def tokenize(tokenizer_dir, tmp_path):
    def run(source: str | Path, *more: str | Path) -> str:
        out = tmp_path / "out"
        line = said("tokenize", "-i", source, "-t", tokenizer_dir, "-l", "16", "--out-dir", out, *more)
        assert not (out / "manifest.json").exists() and not list(out.glob("*.parquet*"))
        return line

    return run


def parquet(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_missing_file(tokenize):
    assert "nowhere.jsonl: no such file or folder; a source is stories:N" in tokenize("nowhere.jsonl")


def test_unknown_kind_of_file(tokenize, tmp_path):
    (tmp_path / "a.docx").write_text("x")
    assert "a .docx file; text is read from .parquet" in tokenize(tmp_path / "a.docx")


def test_bad_stories(tokenize):
    assert "is not stories:N" in tokenize("stories:many")


def test_missing_column(tokenize, tmp_path):
    assert "no column 'text'; it has story, id" in tokenize(parquet(tmp_path / "a.parquet", story=["x"], id=[1]))


def test_missing_field(tokenize, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n')
    assert "a.jsonl: line 2: no field 'text'; it has body" in tokenize(tmp_path / "a.jsonl")


def test_missing_split(tokenize, corpus):
    assert "no split 'test'; it has train" in tokenize(corpus, "-s", "test")


def test_broken_slice(tokenize, corpus):
    assert "expected something like train, train[:10%]" in tokenize(corpus, "-s", "train[10%")


def test_an_empty_separator(tokenize, tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert "the separator is empty" in tokenize(tmp_path / "a.txt", "--separator", "")


@pytest.mark.parametrize("name", ["*", "../evil", "", ".hidden", "a/b", "a b"])
def test_odd_split_names(tokenize, corpus, tmp_path, name):
    assert "split name" in tokenize(corpus, f"--as={name}")
    assert not list(tmp_path.glob("evil*"))


def test_odd_slices_and_counts(tokenize, corpus):
    assert "expected something like" in tokenize(corpus, "-s", "train[_:]")
    assert "expected something like" in tokenize(corpus, "-s", f"train[:{'9' * 5000}]")
    assert "are the most" in tokenize("stories:999999999999999")


def test_a_damaged_parquet_page(tokenize, tmp_path):
    path = parquet(tmp_path / "a.parquet", text=["some words " * 30] * 500)
    data = bytearray(path.read_bytes())
    data[8:24] = b"\xff" * 16
    path.write_bytes(data)
    assert "a.parquet: damaged" in tokenize(path)


def test_shards_that_were_finished_before_a_mistake_go(tokenize, tmp_path):
    lines = [json.dumps({"text": "some words " * 30})] * 5 + ['{"text": null}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert "line 6: field 'text' is null" in tokenize(tmp_path / "a.jsonl", "-c", "1", "--block-bytes", "1")


def test_a_file_where_a_folder_should_be(corpus, tokenizer_dir, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["-i", corpus, "-t", tokenizer_dir, "-l", "16", "--out-dir", tmp_path / "file"]
    assert "error: " in refusal("tokenize", *arguments)


def test_empty_corpus(tokenize, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    assert "has no documents" in tokenize(tmp_path / "a.jsonl", "-s", "train[:1]")
    assert "has no text" in tokenize(tmp_path / "a.jsonl")
    (tmp_path / "b.txt").write_text("")
    assert "has no text" in tokenize(tmp_path / "b.txt")
    (tmp_path / "folder").mkdir()
    assert "no .parquet" in tokenize(tmp_path / "folder")


def test_null_text(tokenize, tmp_path):
    path = parquet(tmp_path / "a.parquet", text=["x", "y", None])
    assert "a.parquet: row 2: column 'text' is null" in tokenize(path)
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n\n{"text": null}\n')
    assert "line 3: field 'text' is null, expected text" in tokenize(tmp_path / "a.jsonl")


def test_numbers_for_text(tokenize, tmp_path):
    assert "column 'text' holds int64, expected text" in tokenize(parquet(tmp_path / "a.parquet", text=[1, 2]))


def test_invalid_utf8(tokenize, tokenizer_dir, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9 au lait " * 30)
    assert "a.txt: not UTF-8" in tokenize(tmp_path / "a.txt")
    arguments = ["-i", tmp_path / "a.txt", "-t", tokenizer_dir, "-l", "16", "--out-dir", tmp_path / "replaced"]
    assert "1 documents" in call("tokenize", *arguments, "--errors", "replace")


def test_half_a_character_in_json(tokenize, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x \\ud83d y"}\n')
    assert "line 1: half a character" in tokenize(tmp_path / "a.jsonl")


def test_broken_json_and_parquet(tokenize, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": \n')
    assert "line 2: not valid JSON" in tokenize(tmp_path / "a.jsonl")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    assert "not a parquet file" in tokenize(tmp_path / "a.parquet")


@pytest.mark.parametrize("seq_len", ["0", "1", "-3"])
def test_seq_len_too_small(corpus, tokenizer_dir, tmp_path, seq_len):
    arguments = ["-i", corpus, "-t", tokenizer_dir, "--out-dir", tmp_path / "out", f"--seq-len={seq_len}"]
    assert "seq_len" in said("tokenize", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_without_bos_or_eos(corpus, tokenizer_dir, tmp_path):
    shutil.copytree(tokenizer_dir, tmp_path / "t")
    for role in ("bos", "eos"):
        config = json.loads((tokenizer_dir / "tokenizer_config.json").read_text())
        del config[f"{role}_token"]
        (tmp_path / "t" / "tokenizer_config.json").write_text(json.dumps(config))
        line = said("tokenize", "-i", corpus, "-t", tmp_path / "t", "-l", "16", "--out-dir", tmp_path / "out")
        assert f"the tokenizer has no {role} token" in line
    assert "no tokenizer.json or tokenizer.model there" in said(
        "tokenize", "-i", corpus, "-t", tmp_path, "-l", "16", "--out-dir", tmp_path / "out"
    )
    (tmp_path / "t" / "tokenizer.json").write_text("{}")
    assert "not a tokenizer" in said(
        "tokenize", "-i", corpus, "-t", tmp_path / "t", "-l", "16", "--out-dir", tmp_path / "out"
    )


def test_a_vocabulary_too_small(corpus, tmp_path):
    line = said("train_tokenizer", "-i", corpus, "-v", "200", "--out-dir", tmp_path / "t")
    assert "vocab_size is 200; 259 is the least" in line and not (tmp_path / "t").exists()


def test_a_tokenizer_from_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("")
    assert "no text to train a tokenizer on" in said(
        "train_tokenizer", "-i", tmp_path / "a.txt", "--out-dir", tmp_path / "t"
    )
    assert not (tmp_path / "t").exists()


# ── training ──


@pytest.fixture
def tiny(tiny_root, tmp_path):
    """A copy of the tiny root that a test may damage."""
    shutil.copytree(tiny_root / "tokens", tmp_path / "tokens")
    shutil.copyfile(tiny_root / "llama.toml", tmp_path / "llama.toml")

    def run(*overrides: str) -> str:
        line = said("train", tmp_path / "llama.toml", f"root={tmp_path}", *overrides)
        assert not list(tmp_path.glob("runs/*/step-*"))
        return line

    return tmp_path, run


def test_a_shard_whose_hash_is_wrong(tiny):
    root, train = tiny
    shard = root / "tokens" / "tiny" / "train-00000.parquet"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert "train-00000.parquet: SHA-256 is" in train()
    shard.unlink()
    assert "train-00000.parquet: missing" in train()


def test_an_unsealed_folder(tiny):
    root, train = tiny
    (root / "tokens" / "tiny" / "manifest.json").unlink()
    (root / "llama.toml").write_text((root / "llama.toml").read_text().replace('source = "stories:300"\n', ""))
    assert "not sealed (no manifest.json)" in train()
    shutil.rmtree(root / "tokens")
    assert "no such folder of tokens" in train()


def test_tokens_made_with_another_tokenizer(tiny, tokenizer_dir):
    _, train = tiny
    assert "made with another tokenizer" in train(f"data.tokenizer={tokenizer_dir}")


def test_tokens_made_from_other_text(tiny):
    _, train = tiny
    assert "the config says stories:300?seed=9 feature=text" in train("data.source=stories:300?seed=9")
    assert "the config says stories:300 feature=text train[:50%]" in train("data.split=train[:50%]")


def test_a_manifest_that_does_not_add_up(tiny):
    root, train = tiny
    path = root / "tokens" / "tiny" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["splits"]["train"]["rows"] += 1
    path.write_text(json.dumps(manifest))
    assert "its shards do not add up" in train()
    path.write_text(json.dumps({**manifest, "splits": []}))
    assert "not a manifest of tokens" in train()


def test_a_device_that_is_not_there(tiny):
    _, train = tiny
    assert "torch finds no GPU here" in train("device=cuda")


@pytest.mark.parametrize(
    "override",
    [
        "seed=18446744073709551616",
        "threads=100000000",
        "checkpoints.linear=100000000000",
        "data.tokens=",
        "name=a/../../b",
    ],
)
def test_numbers_and_names_out_of_range(tiny, override):
    _, train = tiny
    assert override.partition("=")[0] in train(override)


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.toml", "name ="), ("config.toml", ""), ("environment.json", "{}"), ("metrics.jsonl", '{"a": 1}\n')],
)
def test_a_damaged_file_in_a_runs_folder(tiny, name, content):
    root, train = tiny
    run = root / "runs" / "llama"
    run.mkdir(parents=True)
    (run / name).write_text(content)
    line = train()
    assert name in line and "damaged" in line


def test_steps_beyond_the_run(tiny):
    _, train = tiny
    assert "checkpoints.extra: 99 is beyond the run's 14 steps" in train("checkpoints.extra=[3, 99]")
    assert "warmup_steps: 50 of the run's 14 steps" in train("schedule.warmup_steps=50")


def test_rates_that_would_rise_and_numbers_that_are_none(tiny):
    _, train = tiny
    assert "min_learning_rate 1.0 is above" in train("schedule.min_learning_rate=1.0")
    assert "optimizer.grad_clip" in train("optimizer.grad_clip=inf")


def test_ids_beyond_the_vocabulary(tiny):
    _, train = tiny
    assert "beyond model.vocab_size 290" in train("model.vocab_size=290")


def test_another_seq_len(tiny):
    _, train = tiny
    assert "rows of 384 tokens, data.seq_len is 64" in train("data.seq_len=64")


def test_a_damaged_manifest(tiny):
    root, train = tiny
    path = root / "tokens" / "tiny" / "manifest.json"
    path.write_text(path.read_text()[:-40])
    assert "not valid JSON" in train()
    path.write_text('{"kind": "tokens", "format": 99}')
    assert "format 99, this version reads 1" in train()


def test_all_mistakes_in_a_config_at_once(tiny):
    _, train = tiny
    lines = train("optimizer.leraning_rate=1", "batch.sequences=no", "model.type=mmba").splitlines()
    assert any("optimizer.leraning_rate: unknown key; did you mean 'learning_rate'?" in line for line in lines)
    assert any("batch.sequences: 'no'" in line for line in lines)
    assert any("model.type: 'mmba' is not one of 'llama', 'mamba'" in line for line in lines)


@pytest.mark.parametrize("value", ["0", "-1", "2.5", "true", '"3"'])
def test_ill_typed_numbers(tiny, value):
    _, train = tiny
    assert "model.num_hidden_layers" in train(f"model.num_hidden_layers={value}")


def test_shapes_that_do_not_fit(tiny):
    _, train = tiny
    assert "hidden_size 15 is not a multiple of num_attention_heads 4" in train("model.hidden_size=15")
    assert "so it must be even" in train("model.hidden_size=12")


def test_broken_toml(tiny):
    root, train = tiny
    (root / "llama.toml").write_text("name = \n")
    assert "llama.toml: not valid TOML" in train()
    (root / "llama.toml").unlink()
    assert "no such config file" in train()


def test_a_loss_that_is_not_finite_stops_with_its_step(tiny_root, tmp_path):
    shutil.copytree(tiny_root / "tokens", tmp_path / "tokens")
    line = said(
        "train", tiny_root / "llama.toml", f"root={tmp_path}", "optimizer.learning_rate=1e30", "optimizer.grad_clip=0"
    )
    assert ": step " in line and "not finite" in line
    assert (tmp_path / "runs/llama/step-00000000/manifest.json").exists()


def test_a_line_on_stderr_and_an_exit_code(tmp_path):
    """The same through a real process, once for each door."""
    assert refusal("train", "nothing.toml", cwd=tmp_path) == "error: nothing.toml: no such config file"
    assert "no such folder" in refusal("generate", "runs/none", cwd=tmp_path)
    assert "nowhere" in refusal("train-tokenizer", "-i", "nowhere", "--out-dir", "t", cwd=tmp_path)
    assert "no such config file" in refusal("demo", "none.toml", cwd=tmp_path)
    assert not list(tmp_path.iterdir())
