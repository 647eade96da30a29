"""Tiny real things that tests share: a corpus of odd documents, a tokenizer trained on it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from head import Head, head
from hub_server import TOKEN, HubServer

# Nothing here may reach a network, and a test machine's cores are few.
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", TOKENIZERS_PARALLELISM="false")

# Decoded tokens of the tests are gone with them. Here, not in a fixture: processes that tests start inherit it.
CACHE = tempfile.TemporaryDirectory(prefix="suite-tests-cache-")
os.environ["SUITE_CACHE"] = CACHE.name

WORDS = [
    "the",
    "a",
    "fox",
    "sea",
    "über",
    "東京",
    "naïve",
    "12",
    "run's",
    "🙂",
    "of",
    "and",
    "hill",
    "stone",
    "bird",
    "Anna",
    "told",
    "was",
    "were",
    ",",
    ".",
    "!",
    "\t",
]


def odd_documents(count: int, seed: int = 0) -> list[str]:
    """Documents of 0 to 60 words, with what trips encoders: nothing, spaces, special tokens' names, other scripts."""
    draw = random.Random(seed)
    documents = ["", " ", "<eos>", "<bos> in a <pad> text", "\n\n\r\n", "é" * 40]
    while len(documents) < count:
        documents.append(" ".join(draw.choices(WORDS, k=draw.randrange(60))))
    return documents[:count]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 odd documents as jsonl, split train."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    lines = [json.dumps({"text": document}, ensure_ascii=False) for document in odd_documents(300)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer_dir(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from suite.data import tokenizer
    from suite.data.source import Source

    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(tokenizer.train(Source(str(corpus)).texts(), 400), folder)
    return folder


def run_suite(*arguments: str | Path, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
    """`python -m suite ...` in a process of its own, as a user runs it."""
    command = [sys.executable, "-m", "suite", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, **options)
    if check and done.returncode:
        raise AssertionError(f"{command} -> {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def call(door: str, *arguments: str | Path) -> str:
    """A door called in this process, which spares the seconds that importing torch takes. Returns what it prints."""
    import importlib

    from typer.testing import CliRunner

    result = CliRunner().invoke(importlib.import_module(f"suite.{door}").app, [str(one) for one in arguments])
    if result.exception:
        raise result.exception
    return result.output


def refusal(*arguments: str | Path, **options) -> str:
    """The single error line of a command that must fail without a traceback."""
    done = run_suite(*arguments, check=False, **options)
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines, done.stderr
    return "\n".join(lines)


TINY = """
threads = 1
device = "cpu"
[data]
tokens = "tokens/tiny"
source = "stories:300"
vocab_size = 300
seq_len = 384
[budget]
steps = 14
[batch]
sequences = 6
micro_sequences = 2
[optimizer]
learning_rate = 4e-3
[schedule]
warmup_steps = 3
[checkpoints]
per_octave = 1
linear = 0
[eval]
rows = 12
[resume]
every_seconds = 0
"""

TINY_MODELS = {
    "llama": """type = "llama"
hidden_size = 16
intermediate_size = 40
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
""",
    "mamba": 'type = "mamba"\nhidden_size = 12\nnum_hidden_layers = 2\n',
}


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with configs llama.toml and mamba.toml of tiny runs, and the tokens that both read."""
    from suite.data.pack import one_pass
    from suite.executor.local import map_in_order
    from suite.training import prepare
    from suite.training.config import load_run

    root = tmp_path_factory.mktemp("root")
    for name, model in TINY_MODELS.items():
        text = f'name = "{name}"\n' + TINY.replace("[data]", f"[model]\n{model}[data]")
        (root / f"{name}.toml").write_text(text)
    config = load_run([root / "llama.toml"], [f"root={root}"])
    prepare.ensure(config, one_pass(map_in_order(1)), lambda line: None)
    return root


@pytest.fixture(scope="session")
def ray_head() -> Iterator[Head]:
    """The one Ray that all tests share."""
    assert "RAY_ADDRESS" not in os.environ, "the tests start a Ray of their own"
    with head(num_cpus=2) as started:
        yield started


def weights_of(run: Path, step: int) -> bytes:
    return (run / f"step-{step:08d}" / "model.safetensors").read_bytes()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub that the client in this process speaks to. The client reads its environment once, hence the constants."""
    import huggingface_hub
    from huggingface_hub import HfFileSystem, constants

    from suite.base import hub as ours

    with HubServer(tmp_path / "hub") as server:
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "home" / "token"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(ours, "PAUSE_SECONDS", 0.01)
        HfFileSystem.clear_instance_cache()
        ours.bound_the_client.cache_clear()
        yield server
        HfFileSystem.clear_instance_cache()
        huggingface_hub.close_session()
