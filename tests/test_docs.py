"""What the documents say is so: every config key is described, every path and command of the README exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from conftest import call, run_suite
from suite.__main__ import VERBS
from suite.base.config import _unwrapped
from suite.data.config import CorpusConfig, load_corpus
from suite.training.config import RunConfig, SuiteSection

HOME = Path(__file__).parents[1]
README = (HOME / "README.md").read_text()


def keys(section) -> set[str]:
    found = {field.alias or name for name, field in section.model_fields.items()}
    for field in section.model_fields.values():
        for inner in _unwrapped(field.annotation):
            found |= keys(inner)
    return found


def test_every_config_key_is_described():
    text = (HOME / "docs" / "config.md").read_text()
    described = set(re.findall(r"`\[?([a-z0-9_]+)\]?`", text)) | {"type"}
    assert not (keys(RunConfig) | keys(SuiteSection)) - described
    data = set(re.findall(r"`\[?([a-z0-9_]+)\]?`", text.partition("# Data configs")[2])) | {
        "source",
        "mixture",
        "tokens",
    }
    assert not keys(CorpusConfig) - data - {"tokenizer"}


def test_the_examples_of_data_configs_are_valid(tmp_path):
    examples = re.findall(r"```toml\n(.*?)```", (HOME / "docs" / "corpus.md").read_text(), re.S)
    assert len(examples) > 3
    for example in examples:
        text = example.replace("configs/data", str(HOME / "configs" / "data"))
        (tmp_path / "example.toml").write_text(text)
        assert load_corpus([str(tmp_path / "example.toml")], {}).members()


def test_the_examples_of_token_folders_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", (HOME / "docs" / "tokens.md").read_text(), re.M | re.S)
    assert len(blocks) == 4
    for kind, text in blocks:
        if kind == "python":
            exec(text, names)
            continue
        for line in text.splitlines():
            _, verb, *arguments = shlex.split(line)
            call(verb.replace("-", "_"), *arguments)
    adopted = names["shards"].read(Path("elsewhere"))
    assert adopted.rows("train").tolist() == names["rows"].tolist()


def test_the_readme_names_paths_that_exist():
    named = set(re.findall(r"(?:tests|rust|bench|python|docs|configs)/[\w/.-]+\.\w+", README))
    assert named and not [path for path in named if not (HOME / path).exists()]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    assert "Usage: suite" in run_suite(verb, "--help").stdout
    assert verb in run_suite().stdout


def test_a_verb_may_be_written_either_way():
    assert run_suite("train_tokenizer", "--help").stdout == run_suite("train-tokenizer", "--help").stdout
    done = run_suite("trian", check=False)
    assert done.returncode == 2 and "no verb 'trian'" in done.stderr
