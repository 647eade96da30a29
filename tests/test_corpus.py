"""Data configs: the doors do from a TOML what they do from flags, and the ready ones read what their datasets hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from conftest import call, odd_documents
from lookalikes import LOOKALIKES, make
from suite.base.errors import ConfigError, SuiteError
from suite.data import hub_files, shards
from suite.data.config import TOKENIZER, CorpusConfig, load_corpus
from suite.data.mix import texts_of
from suite.data.source import TextSource

READY = sorted((Path(__file__).parents[1] / "configs" / "data").glob("*.toml"))


def never(name: str, source: TextSource) -> int:
    raise AssertionError("only shares need the bytes counted")


def documents(corpus: CorpusConfig, split: str) -> list[str]:
    return [text for texts in texts_of(corpus.text_source(split, never)) for text in texts.documents()]


def refused(*arguments: str | Path) -> str:
    with pytest.raises(SuiteError) as caught:
        call("tokenize", *arguments)
    return str(caught.value)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer_dir: Path) -> Path:
    """A folder with two sources and data configs, which is the root of what is written."""
    for number, name in enumerate(("a", "b")):
        rows = [{"text": t, "title": f"{i}."} for i, t in enumerate(odd_documents(120, number))]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "one.toml").write_text(f"""
name = "one"
[source]
dataset = "{tmp_path / "a.jsonl"}"
[splits]
train = "train@hash[10%:]"
validation = "train@hash[:10%]"
[tokenizer]
vocab_size = 300
[tokens]
seq_len = 16
""")
    (tmp_path / "two.toml").write_text(f"""
extends = "one.toml"
name = "two"
[mixture.first]
weight = 1.5
[mixture.second]
dataset = "{tmp_path / "b.jsonl"}"
template = "{{title}} {{text}}"
[tokenizer]
folder = "{tokenizer_dir}"
""")
    monkeypatch.setenv("SUITE_ROOT", str(tmp_path))
    return tmp_path


def test_one_file_describes_source_tokenizer_and_tokens(here):
    said = call("tokenize", here / "one.toml")
    assert "tokenizers/one: 300 tokens" in said
    tokens = shards.read(here / "tokens/one")
    assert tokens.seq_len == 16 and set(tokens.splits) == {"train", "validation"}
    assert sum(split.documents for split in tokens.splits.values()) == 120
    assert call("tokenize", here / "one.toml").count("there already") == 2  # and no tokenizer is trained again
    call("train-tokenizer".replace("-", "_"), here / "one.toml", "--out-dir", "again")
    again, first = (here / folder / "tokenizer.json" for folder in ("again", "tokenizers/one"))
    assert again.read_bytes() == first.read_bytes()  # trained on what the config says


def test_a_config_writes_what_flags_write_and_flags_come_before_it(here, tokenizer_dir):
    flags = ["-i", here / "b.jsonl", "-t", tokenizer_dir, "-l", "24", "--template", "{title}{text}", "-c", "9",
             "--overlap", "2", "-s", "train[:50%]@hash[10%:]", "--as", "x",
             "--deduplicate", "--layout", "stream"]  # fmt: skip
    call("tokenize", *flags, "--out-dir", "flags")
    call("tokenize", here / "one.toml", "name=both", *flags)
    call("tokenize", here / "one.toml", f"source.dataset={here / 'b.jsonl'}", f"tokenizer.folder={tokenizer_dir}",
         "tokens.seq_len=24", "source.template={title}{text}", "tokens.chunk_size=9", "tokens.overlap=2",
         "tokens.deduplicate=true",
         "splits={x = 'train[:50%]@hash[10%:]', train = 'train', validation = 'train'}", "name=toml")  # fmt: skip
    flagged, both, toml = (shards.read(here / folder) for folder in ("flags", "tokens/both", "tokens/toml"))
    assert flagged.splits == both.splits == {"x": toml.split("x")} and len(toml.splits) == 3


def test_a_config_says_the_kind_of_tokenizer_as_flags_do(here):
    common = ["-i", here / "a.jsonl", "-s", "train[:60]"]
    flags = ["-v", "300", "--kind", "sentencepiece-bpe", "--num-samples", "50", "--no-byte-fallback"]
    keys = ["kind=sentencepiece-bpe", "num_samples=50", "byte_fallback=false", "vocab_size=300", "folder=keys"]
    call("train_tokenizer", *common, *flags, "--out-dir", "flags")
    call("train_tokenizer", here / "one.toml", *common, *(f"tokenizer.{key}" for key in keys))
    flagged, keyed = (sorted((here / folder).glob("token*")) for folder in ("flags", "keys"))
    assert [one.read_bytes() for one in keyed] == [one.read_bytes() for one in flagged] and len(keyed) > 1


def test_members_of_a_mixture_take_what_source_says_for_all(here):
    corpus = load_corpus([str(here / "two.toml"), "source.feature=text"], {})
    assert [m.template for m in corpus.members().values()] == [None, "{title} {text}"]
    lines = [[json.loads(line) for line in (here / f"{name}.jsonl").open()] for name in ("a", "b")]
    held, second_part = [[row["text"] for row in lines[0]], [f"{row['title']} {row['text']}" for row in lines[1]]], []
    hashes = {t: hashlib.sha256(t.encode()).digest() for t in (*held[0], *held[1])}
    held = [[t for t in texts if int.from_bytes(hashes[t][:8]) >= 2**64 // 10 + 1] for texts in held]
    second_part = [t for t in held[0] if int.from_bytes(hashes[t][8:16]) < 2**63]
    assert documents(corpus, "train") == held[0] + second_part + held[1]
    call("tokenize", here / "two.toml")
    assert shards.read(here / "tokens/two").split("train").documents == len(held[0] + second_part + held[1])
    assert "weight=1.5; second: " in shards.read(here / "tokens/two").split("train").source


def test_shares_are_of_the_bytes_of_text(here):
    """`second` is to be three quarters: it is read whole, and of `first` as much as makes the rest."""
    keys = ["mixture.first.share=0.25", "mixture.second.share=0.75"]
    call("tokenize", here / "two.toml", *keys)
    source = shards.read(here / "tokens/two").split("train").source
    alone = [[f"mixture.{name}.weight=0"] for name in ("second", "first")]
    read = [
        documents(load_corpus([str(here / "two.toml"), "mixture.first.weight=1", *one], {}), "train") for one in alone
    ]
    sizes = [sum(len(text.encode()) for text in texts) for texts in read]
    assert f"weight={sizes[1] * 0.25 / 0.75 / sizes[0]!r}; second" in source and "weight=1.0" in source
    twice = load_corpus([str(here / "two.toml"), *keys, "max_epochs=2"], {})
    mixture = twice.text_source("train", lambda name, source: {"first": 300, "second": 100}[name])
    assert [member.weight for member in mixture.members] == [2 * 100 * 0.25 / 0.75 / 300, 2.0]


def test_a_member_may_name_its_splits_otherwise_or_have_no_part_in_one(here):
    corpus = load_corpus(
        [str(here / "two.toml"), "mixture.first.splits.validation=", "mixture.second.splits.validation=train[:3]",
         "mixture.second.splits.tokenizer=train[:2]", "tokenizer.split=train[5:6]"], {},
    )  # fmt: skip
    lines = [json.loads(line) for line in (here / "b.jsonl").open()][:3]
    texts = [f"{row['title']} {row['text']}" for row in lines]
    assert documents(corpus, "validation") == texts
    assert documents(corpus, TOKENIZER)[-2:] == texts[:2]
    with pytest.raises(ConfigError, match=r"splits.validation: no source has a part"):
        documents(load_corpus([str(here / "two.toml"), "source.splits.validation="], {}), "validation")


def test_all_mistakes_are_said_at_once(here):
    (here / "bad.toml").write_text("""
nmae = "x"
[source]
datset = "a.jsonl"
template = "{a.b}"
separator = ""
[mixture.one]
wieght = 2
share = 1.5
[splits]
train = "train@hash[:1]"
[tokens]
seq_len = 1
""")
    lines = refused(here / "bad.toml").splitlines()
    for part in [
        "bad.toml: nmae: unknown key; did you mean 'name'?",
        "bad.toml: source.datset: unknown key; did you mean 'dataset'?",
        "bad.toml: source.template: template '{a.b}': a field is a column's name in braces",
        "bad.toml: source.separator: the separator is empty",
        "bad.toml: mixture.one.wieght: unknown key; did you mean 'weight'?",
        "bad.toml: mixture.one.share: 1.5: input should be less than or equal to 1",
        "bad.toml: splits.train: split 'train@hash[:1]': expected something like train@hash[:0.5%]",
        "bad.toml: tokens.seq_len: 1: input should be greater than or equal to 2",
    ]:
        assert any(part in line for line in lines), part
    assert not (here / "tokens").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-i", "a.jsonl"], "--tokenizer, --seq-len, --out-dir: missing; give them, or a TOML"),
        (["one.toml", "--as", "x"], "give --split too"),
        (["two.toml", "-i", "a.jsonl"], "mixture.second.dataset: the flag does not reach it"),
        (["two.toml", "mixture.first.share=0.5"], "one member has a share, so every member needs one"),
        (["two.toml", "mixture.first.share=0.5", "mixture.second.share=0.6"], "the shares add up to 1.1, not to 1"),
        (["two.toml", "mixture.first.weight=0", "mixture.second.weight=0.0"], "every weight is 0"),
        (["two.toml", "--deduplicate"], "tokens.deduplicate: it would take out again what a weight above 1 repeats"),
        (["one.toml", "-t", "nowhere"], "nowhere: no tokenizer.json"),
        (["one.toml", "splits={tokenizer = 'train'}"], "'tokenizer' is no name for it"),
        (["one.toml", "source.config=x"], "has configs"),
        (["one.toml", "source.dataset=nowhere"], "nowhere"),
        (["one.toml", "name=../x"], "name"),
        (["none.toml"], "none.toml: no such config file"),
    ],
)
def test_mistakes(here, monkeypatch, arguments, message):
    monkeypatch.chdir(here)
    assert message in refused(*arguments)
    assert not (here / "tokens").exists()


# ── ready configs ──


@pytest.fixture(scope="session")
def repos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    under = tmp_path_factory.mktemp("repos")
    for repo in LOOKALIKES:
        make(repo, under)
    return under


@pytest.mark.parametrize("path", READY, ids=lambda path: path.stem)
def test_ready_configs_read_what_their_datasets_hold(path, repos, hub, tmp_path, monkeypatch):
    """From a Hub as they stand; the datasets library says what a config's splits hold, hashlib and format the rest."""
    import datasets

    hub_files._asked.clear()
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.url)
    ready = load_corpus([str(path)], {})
    assert ready.name == path.stem and {"train", "validation"} <= set(ready.splits)
    texts = {}
    for name, member in ready.members().items():
        assert member.dataset
        hub.add(member.dataset, repos / member.dataset)
        folder, cache = str(repos / member.dataset), str(tmp_path / "cache")
        for split in datasets.get_dataset_split_names(folder, member.config):
            held = datasets.load_dataset(folder, member.config, split=split, cache_dir=cache)
            texts[name, split] = [(member.template or f"{{{member.feature}}}").format(**row) for row in held]
    for split, expression in ready.splits.items():
        expected = []
        for name in ready.members():
            source, _, part = expression.partition("@hash")
            start, stop = [one.strip("[]%") for one in (part or ":").split(":")]
            for text in texts[name, source]:
                at = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64 * 100
                expected += [text] if float(start or 0) <= at < float(stop or 100) else []
        assert documents(ready, split) == expected and (expected or split == "validation")
    monkeypatch.setenv("SUITE_ROOT", str(tmp_path))
    small = ["tokenizer.vocab_size=300", "tokenizer.split=train", "tokens.seq_len=32", "tokens.repo=tester/tokens"]
    whole = [f"splits.{split}={expression.partition('@')[0]}" for split, expression in ready.splits.items()]
    call("tokenize", path, *small, *whole)  # of few rows the hash may hold out none
    made = shards.read(tmp_path / "tokens" / path.stem)
    assert made.split("train").documents == sum(len(some) for (_, split), some in texts.items() if split == "train")
    assert {f"data/{shard.name}" for shard in made.split("train").shards} <= set(hub.repo("tester/tokens").files())


def test_escapes_in_flags_are_what_toml_reads(tmp_path):
    """A shell passes '\\n\\n' as four characters, and the help shows it that way."""
    (tmp_path / "three.txt").write_text("one\n\ntwo\n\nthree")
    call("train_tokenizer", "-i", "stories:50", "-v", "300", "--out-dir", tmp_path / "tok")
    arguments = ["-t", tmp_path / "tok", "-l", "2", "--out-dir", tmp_path / "tokens"]
    assert "3 documents" in call("tokenize", "-i", tmp_path / "three.txt", "--separator", r"\n\n", *arguments)
