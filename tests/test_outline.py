"""`suite train --dry-run`: what it says is what the run then does, and it writes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import call
from suite.base.errors import ConfigError, TokensError
from suite.training.run import steps_in


def said(*arguments: str | Path) -> dict[str, str]:
    lines = call("train", *arguments, "--dry-run").splitlines()
    return {line[:12].strip(): line[13:] for line in lines}


def test_what_is_said_is_what_is_done(tiny_root: Path):
    arguments = [tiny_root / "llama.toml", f"root={tiny_root}", "name=said"]
    before = said(*arguments)
    assert before["this run"] == "begins at step 0" and not (tiny_root / "runs" / "said").exists()
    assert before["workers"] == "1, local: 1 thread, cpu, float32"
    assert before["tokens"].startswith(f"{tiny_root}/tokens/tiny: 232 rows of train, 235 rows of validation")

    call("train", *arguments)
    run = tiny_root / "runs" / "said"
    steps = steps_in(run)
    assert before["checkpoints"] == f"{len(steps)}: {', '.join(map(str, steps))}"
    assert before["budget"] == f"{steps[-1]} steps of {6 * 383:,} tokens: {steps[-1] * 6 * 383:,} tokens, 0.36 epochs"
    weights = (run / f"step-{steps[-1]:08d}" / "model.safetensors").stat().st_size
    kilobytes = float(before["disk"].partition(" kB of checkpoints")[0])
    assert len(steps) * (weights - 4000) / 1e3 < kilobytes < len(steps) * weights / 1e3  # a file's header is 3 kB
    assert "nothing to do" in call("train", *arguments, "--dry-run")


def test_tokens_that_are_still_to_be_made(tmp_path: Path):
    config = Path(__file__).parents[1] / "configs" / "mamba-100k.toml"
    lines = said(config, f"root={tmp_path}", "budget.epochs=1.5", "num_workers=3", "ray.resources_per_worker.CPU=0.5")
    assert lines["tokens"].endswith("train and validation to be made from stories:200k, after a tokenizer of 4,096 "
                                    f"tokens in {tmp_path}/tokens/stories-4096/tokenizer")  # fmt: skip
    assert lines["model"] == "mamba, 110,952 parameters, 12,648 without embeddings"
    assert lines["budget"] == "1.5 epochs of rows that are still to be counted"
    assert lines["workers"] == "3, ray: 1 thread, cpu, float32, 0.5 CPU each"
    assert not list(tmp_path.iterdir())


def test_what_the_run_would_refuse_is_refused(tiny_root: Path):
    with pytest.raises(TokensError, match=r"data\.seq_len is 12"):
        said(tiny_root / "llama.toml", f"root={tiny_root}", "data.seq_len=12")
    with pytest.raises(ConfigError, match="beyond the run's 14 steps"):
        said(tiny_root / "llama.toml", f"root={tiny_root}", "checkpoints.extra=[99]")
