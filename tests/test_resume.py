"""A run that is killed anywhere and started again ends in the bits of the run that was left alone."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import call, refusal, run_suite, weights_of
from suite.base.errors import IdentityError, SealError
from suite.base.store import hold
from suite.base.tracker import MEASURED, METRICS, read_records

STEPS = 14


def train(root: Path, model: str, *overrides: str) -> None:
    call("train", root / f"{model}.toml", f"root={root}", *overrides)


def killed(root: Path, model: str, name: str, records: int, delay: float) -> bool:
    """Starts the run and sends SIGKILL `delay` seconds after its `records`-th record. False if it got to the end."""
    command = [sys.executable, "-m", "suite", "train", root / f"{model}.toml", f"root={root}", f"name={name}"]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = root / "runs" / name / METRICS
    deadline = time.monotonic() + 120
    while process.poll() is None and len(read_records(metrics)) < records:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay)
    finished = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return not finished


@pytest.fixture(scope="module", params=[pytest.param("llama", marks=pytest.mark.slow), "mamba"])
def undisturbed(request, tiny_root):
    train(tiny_root, request.param)
    return tiny_root, request.param


def comparable(run: Path) -> list[dict]:
    """Records without what clocks and meters say."""
    return [
        {key: value for key, value in record.items() if not key.startswith(MEASURED)}
        for record in read_records(run / METRICS)
    ]


def test_killed_at_random_steps_and_resumed_is_the_same_run(undisturbed):
    root, model = undisturbed
    draw = random.Random(f"kills of {model}")
    name = f"{model}-killed"
    kills = sum(killed(root, model, name, draw.randrange(1, 16), draw.random() * 0.05) for _ in range(3))
    assert kills >= 2
    train(root, model, f"name={name}")
    left_alone, disturbed = root / "runs" / model, root / "runs" / name
    for step in (0, 1, 2, 4, 8, STEPS):
        assert weights_of(disturbed, step) == weights_of(left_alone, step), step
    resume = f"resume-{STEPS:08d}/optimizer.safetensors"
    assert (disturbed / resume).read_bytes() == (left_alone / resume).read_bytes()
    assert comparable(disturbed) == comparable(left_alone)


def test_asked_to_stop_it_keeps_every_step(undisturbed):
    root, model = undisturbed
    number = {"llama": signal.SIGINT, "mamba": signal.SIGTERM}[model]
    name = f"{model}-asked-{number}"
    arguments = [f"root={root}", f"name={name}", "resume.every_seconds=1000"]
    command = [sys.executable, "-m", "suite", "train", root / f"{model}.toml", *arguments]
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    run = root / "runs" / name
    while len(read_records(run / METRICS)) < 5:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert (
        process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 75}[number] and "run the same command again" in said
    )
    [resume] = run.glob("resume-*")
    assert int(resume.name[7:]) == read_records(run / METRICS)[-1]["step"]
    call("train", root / f"{model}.toml", *arguments)
    starts = json.loads((run / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, int(resume.name[7:])]
    assert weights_of(run, STEPS) == weights_of(root / "runs" / model, STEPS)
    assert comparable(run) == comparable(root / "runs" / model)


def test_killed_before_the_last_seal_it_writes_no_record_twice(undisturbed, tmp_path):
    root, model = undisturbed
    shutil.copytree(root / "tokens", tmp_path / "tokens")
    shutil.copytree(root / "runs" / model, tmp_path / "runs" / model)
    (tmp_path / "runs" / model / f"step-{STEPS:08d}" / "manifest.json").unlink()
    call("train", root / f"{model}.toml", f"root={tmp_path}")
    assert comparable(tmp_path / "runs" / model) == comparable(root / "runs" / model)
    assert weights_of(tmp_path / "runs" / model, STEPS) == weights_of(root / "runs" / model, STEPS)


def test_a_run_from_before_a_key_existed_goes_on(undisturbed, tmp_path):
    root, model = undisturbed
    shutil.copytree(root / "runs" / model, tmp_path / "runs" / model)
    stored = tmp_path / "runs" / model / "config.toml"
    stored.write_text(stored.read_text().replace("order_seed = 0\n", ""))
    assert "nothing to do" in call("train", root / f"{model}.toml", f"root={tmp_path}")


def test_a_finished_run_is_left_alone(undisturbed):
    root, model = undisturbed
    before = {path: path.stat().st_mtime_ns for path in (root / "runs" / model).rglob("*")}
    assert "finished at step 14; nothing to do" in call("train", root / f"{model}.toml", f"root={root}")
    assert {path: path.stat().st_mtime_ns for path in (root / "runs" / model).rglob("*")} == before


def test_another_identity_is_refused_with_what_differs(undisturbed):
    root, model = undisturbed
    line = refusal("train", root / f"{model}.toml", f"root={root}", "optimizer.learning_rate=1e-3", "seed=7")
    assert "optimizer.learning_rate is 0.004 there, 0.001 here" in line
    assert "seed is 0 there, 7 here" in line


def test_operational_keys_may_change(undisturbed):
    root, model = undisturbed
    name = f"name={model}-operational"
    assert killed(root, model, f"{model}-operational", 4, 0.0)
    train(root, model, name, "resume.every_seconds=9", "resume.keep=3")
    assert weights_of(root / "runs" / f"{model}-operational", STEPS) == weights_of(root / "runs" / model, STEPS)


def test_threads_are_the_runs_own_not_the_starters(undisturbed):
    """A resumed run keeps the threads it began with, whatever the machine offers later."""
    root, model = undisturbed
    config = (root / f"{model}.toml").read_text().replace("threads = 1", "")
    (root / "open.toml").write_text(config)
    done = run_suite("train", root / "open.toml", f"root={root}", env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert "nothing to do" in done.stdout


def test_a_checkpoint_folder_is_a_transformers_folder(undisturbed):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root, model = undisturbed
    folder = root / "runs" / model / "step-00000008"
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("<bos>Once upon a time", return_tensors="pt").input_ids
    assert ids[0, 0] == 0 and ids.shape[1] > 4
    written = theirs.generate(ids, max_new_tokens=5, do_sample=False)
    assert written.shape[1] <= ids.shape[1] + 5
    from suite.models.hf import read_folder

    ours, _ = read_folder(folder)
    with torch.no_grad():
        assert torch.allclose(ours(ids), theirs(ids).logits, atol=2e-6, rtol=0)  # float32 rounding of values near 1


def test_a_checkpoint_says_what_it_is(undisturbed):
    root, model = undisturbed
    manifest = json.loads((root / "runs" / model / "step-00000008" / "manifest.json").read_text())
    assert (manifest["kind"], manifest["step"], manifest["tokens"]) == ("checkpoint", 8, 8 * 6 * 383)
    assert manifest["validation_loss"] > 0


def test_losses_fall_and_the_floor_is_below(undisturbed):
    root, model = undisturbed
    records = read_records(root / "runs" / model / METRICS)
    losses = [record["validation/loss"] for record in records if "validation/loss" in record]
    floor = next(record["validation/floor"] for record in records if "validation/floor" in record)
    assert floor < losses[-1] < losses[0]


def test_text_is_generated_from_a_run_and_a_step(undisturbed):
    root, model = undisturbed
    run = root / "runs" / model
    first = call("generate", run, "Once upon", "-n", "12")
    assert first.startswith("Once upon") and first == call("generate", run, "Once upon", "-n", "12")
    assert call("generate", f"{run}@0", "Once upon", "-n", "12") != first
    with pytest.raises(SealError, match="no checkpoint of step 5; there are 0, 1, 2, 4, 8, 14"):
        call("generate", f"{run}@5")


def test_other_tokens_under_a_run_are_refused(undisturbed, tmp_path):
    """The run began with one text; the folder now holds another of the same name."""
    root, model = undisturbed
    shutil.copytree(root / "runs" / model, tmp_path / "runs" / model)
    shutil.rmtree(tmp_path / "runs" / model / f"step-{STEPS:08d}")
    (tmp_path / "again.toml").write_text((root / f"{model}.toml").read_text())
    arguments = [tmp_path / "again.toml", f"root={tmp_path}", "data.source=stories:300?seed=9"]
    with pytest.raises(IdentityError, match=r"data.source is 'stories:300' there"):
        call("train", *arguments)
    stored = tmp_path / "runs" / model / "config.toml"
    stored.write_text(stored.read_text().replace("stories:300", "stories:300?seed=9"))
    with pytest.raises(IdentityError, match="began with other tokens"):
        call("train", *arguments)


def test_a_damaged_resume_state_is_an_error(undisturbed, tmp_path):
    root, model = undisturbed
    shutil.copytree(root / "tokens", tmp_path / "tokens")
    shutil.copytree(root / "runs" / model, tmp_path / "runs" / model)
    shutil.rmtree(tmp_path / "runs" / model / f"step-{STEPS:08d}")
    weights = tmp_path / "runs" / model / f"resume-{STEPS:08d}" / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(SealError, match="SHA-256"):
        call("train", root / f"{model}.toml", f"root={tmp_path}")


def test_two_processes_never_train_one_run(undisturbed):
    root, model = undisturbed
    (root / "runs" / f"{model}-held").mkdir(parents=True, exist_ok=True)
    with hold(root / "runs" / f"{model}-held"), pytest.raises(SealError, match="another process is at work on it"):
        train(root, model, f"name={model}-held")


def test_bfloat16_products_train_too(undisturbed):
    root, model = undisturbed
    train(root, model, f"name={model}-bf16", "precision.dtype=bfloat16", "budget.steps=4")
    losses = [record.get("validation/loss") for record in read_records(root / "runs" / f"{model}-bf16" / METRICS)]
    exact = [record.get("validation/loss") for record in read_records(root / "runs" / model / METRICS)]
    found, wanted = ([loss for loss in one if loss is not None][:3] for one in (losses, exact))
    # bfloat16 keeps 8 bits: products differ by up to 2^-8, losses after two updates by far less.
    assert all(abs(a - b) < 0.05 for a, b in zip(found, wanted, strict=True))


def test_an_isolated_run_that_is_resumed_is_the_same_run(undisturbed, tmp_path):
    root, model = undisturbed
    arguments = [f"name={model}-isolated", "data.isolate=true", "resume.keep=99"]
    train(root, model, *arguments)
    left_alone, disturbed = root / "runs" / f"{model}-isolated", tmp_path / "runs" / f"{model}-isolated"
    assert weights_of(left_alone, 0) == weights_of(root / "runs" / model, 0)
    assert weights_of(left_alone, 1) != weights_of(root / "runs" / model, 1)
    shutil.copytree(root / "tokens", tmp_path / "tokens")
    shutil.copytree(left_alone, disturbed)
    for folder in disturbed.glob("*-????????"):
        if int(folder.name[-8:]) > 5:
            shutil.rmtree(folder)
    call("train", root / f"{model}.toml", f"root={tmp_path}", *arguments)
    assert json.loads((disturbed / "environment.json").read_text())["starts"][-1]["step"] == 5
    assert weights_of(disturbed, STEPS) == weights_of(left_alone, STEPS)
    assert comparable(disturbed) == comparable(left_alone)


def test_isolation_is_part_of_what_a_run_is(undisturbed):
    root, model = undisturbed
    with pytest.raises(IdentityError, match=r"data.isolate is False there, True here"):
        call("train", root / f"{model}.toml", f"root={root}", "data.isolate=true")
