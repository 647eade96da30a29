"""What a run can be asked for beside its sizes: each key does what its line in docs/config.md says."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from conftest import call, weights_of
from suite.base.errors import DivergedError
from suite.base.tracker import METRICS, read_records
from suite.data import shards, tokenizer
from suite.models.build import build, initialize
from suite.training import optim, run
from suite.training.config import OptimizerConfig, load_run


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_what_decays(tiny_root: Path, name: str, decay_all: bool):
    import torch

    model = build(load_run([tiny_root / f"{name}.toml"], []).model, 300)
    initialize(model, 0, None)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer = optim.adamw(model, OptimizerConfig(learning_rate=0.1, weight_decay=0.5, decay_all=decay_all))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # so that decay is all that moves a weight
    optimizer.step()
    still = {key for key, value in model.named_parameters() if torch.equal(value, before[key]) and before[key].any()}
    spared = {key for key, value in before.items() if (value.ndim < 2 or key.endswith("A_log")) and value.any()}
    assert still == (set() if decay_all else spared) and spared


def test_so_many_resume_states_are_kept(tiny_root: Path):
    """And any of them is a place to go on from: the newest is damaged, it is removed, the run ends in the same bits."""
    config = [tiny_root / "mamba.toml", f"root={tiny_root}", "resume.keep=3", "name=kept"]
    call("train", *config)
    folder = tiny_root / "runs" / "kept"
    assert run.resume_steps(folder) == [12, 13, 14]
    last = weights_of(folder, 14)
    (folder / "step-00000014" / "manifest.json").unlink()
    for step in (13, 14):
        (folder / f"resume-{step:08d}" / "manifest.json").unlink()
    call("train", *config)
    assert weights_of(folder, 14) == last and run.resume_steps(folder) == [12, 13, 14]


def test_evaluation_on_all_of_several_splits_and_texts_on_the_way(tiny_root: Path, tmp_path: Path):
    shutil.copytree(tiny_root / "tokens", tmp_path / "tokens")
    manifest = tmp_path / "tokens" / "tiny" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["splits"]["other"] = content["splits"]["validation"]
    manifest.write_text(json.dumps(content))
    keys = ["eval.splits=['validation', 'other']", "eval.rows=all", "eval.every=2", "budget.steps=3", "name=r"]
    texts = ["samples.prompts=['Once']", "samples.every=2", "samples.per_prompt=2", "samples.top_p=0.5"]
    rest = [
        "checkpoints.preset=every",
        "checkpoints.every=3",
        "samples.max_new_tokens=8",
        "schedule.warmup_tokens=4597",
    ]
    call("train", tiny_root / "mamba.toml", f"root={tmp_path}", *keys, *texts, *rest)
    run_folder = tmp_path / "runs" / "r"
    measured = [one for one in read_records(run_folder / METRICS) if "other/loss" in one]
    assert [one["step"] for one in measured] == [0, 2, 3]
    for one in measured:
        assert one["other/loss"] == one["validation/loss"]
        assert one["validation/perplexity"] == pytest.approx(math.exp(one["validation/loss"]))
    rates = [one["train/learning_rate"] for one in read_records(run_folder / METRICS) if "train/loss" in one]
    assert rates == [pytest.approx(4e-3 * k / 3) for k in (1, 2, 3)]  # 4,597 tokens are 2 steps of 2,298 and one more
    tokens = shards.read(manifest.parent)
    encoder = tokenizer.load(manifest.parent / "tokenizer")
    documents = tokens.documents("validation")
    nats = measured[-1]["validation/loss"] * sum(map(len, documents))
    num_bytes = sum(len(encoder.decode(one).encode()) for one in documents)
    assert measured[-1]["validation/bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-9)
    written = [(one["step"], one["number"]) for one in read_records(run_folder / "samples.jsonl")]
    assert written == [(step, number) for step in (0, 2, 3) for number in (0, 1)]


def test_top_p_keeps_the_fewest_tokens_that_have_so_much(tiny_root: Path):
    """Against the definition: the tokens drawn over many seeds are those of the smallest such set."""
    import torch

    from suite.models.sampling import sample

    model = build(load_run([tiny_root / "llama.toml"], []).model, 300)
    initialize(model, 0, None)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)  # so that a few tokens have most of the probability
        p_V = model(torch.tensor([[0]]))[0, -1].softmax(-1)
    likeliest = p_V.argsort(descending=True).tolist()
    enough = next(n for n in range(1, 301) if float(p_V[likeliest[:n]].sum()) >= 0.6)
    options = {"max_new_tokens": 1, "context": 8, "eos": -1, "temperature": 1.0, "top_k": None}
    drawn = {next(sample(model, [0], **options, top_p=0.6, seed=seed)) for seed in range(400)}
    assert 2 < enough < 60 and drawn <= set(likeliest[:enough])
    assert len(drawn) > enough // 2
    everything = [next(sample(model, [0], **options, top_p=p, seed=5)) for p in (1.0, None)]
    assert everything[0] == everything[1]


def test_a_sanity_check_does_all_that_the_run_will_do_and_leaves_nothing(tiny_root: Path):
    runs = tiny_root / "runs"
    before = sorted(runs.iterdir()) if runs.exists() else []
    config = [tiny_root / "llama.toml", f"root={tiny_root}", "name=sane", "--sanity"]
    said = call("train", *config, "schedule.warmup_steps=9", "samples.prompts=['Once']")
    assert "sanity: 2 steps, loss" in said and "evaluated on 4 rows" in said and "read back" in said
    with pytest.raises(DivergedError):
        call("train", *config, "optimizer.learning_rate=1e30")
    assert (sorted(runs.iterdir()) if runs.exists() else []) == before
