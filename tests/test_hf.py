"""Classes of transformers train as they would by themselves, and pre-trained models are gone on from as they are."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file

from conftest import TINY, call, weights_of
from suite.base.errors import ConfigError, HubError, IdentityError, SealError, TokensError
from suite.base.tracker import METRICS, read_records
from suite.base.world import World
from suite.models import hf
from suite.models.build import build, initialize, num_parameters
from suite.models.causal import Causal
from suite.models.config import HfConfig, LlamaConfig, MambaConfig
from suite.models.score import token_nats
from suite.training import loop, pretrained, run
from suite.training.config import load_run
from suite.training.step import nats_of

VOCAB, SEQ_LEN, STEPS = 97, 33, 3
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 3}
# Dropout by default; layers left out, a projection before the head; untied; caps; tied; a scale; a bias; experts.
CLASSES = {
    "GPT2LMHeadModel": GPT2,
    "OPTForCausalLM": {
        **{k: v for k, v in SHAPE.items() if k != "intermediate_size"},
        "word_embed_proj_dim": 16,
        "layerdrop": 0.95,
    },
    "GPTNeoXForCausalLM": SHAPE,
    "Gemma2ForCausalLM": {**SHAPE, "num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 1.0},
    "Qwen3ForCausalLM": {**SHAPE, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True},
    "CohereForCausalLM": {**SHAPE, "num_key_value_heads": 2},
    "PhiForCausalLM": SHAPE,
    "MixtralForCausalLM": {**SHAPE, "num_key_value_heads": 2, "num_local_experts": 3, "num_experts_per_tok": 2},
}
WITH_MATRIX = {"GPT2LMHeadModel", "OPTForCausalLM", "GPTNeoXForCausalLM", "Qwen3ForCausalLM", "MixtralForCausalLM"}


def ids() -> torch.Tensor:
    return torch.randint(0, VOCAB, (3, SEQ_LEN), generator=torch.Generator().manual_seed(0))


def config_of(name: str, **more: object) -> HfConfig:
    return HfConfig(type="hf", model_class=name, **CLASSES[name], **more)


@pytest.fixture(params=CLASSES)
def causal(request) -> Causal:
    model = build(config_of(request.param), VOCAB)
    initialize(model, 3)
    assert isinstance(model, Causal)
    return model.eval()


def test_loss_and_gradients_are_transformers(causal):
    assert causal.plain == (causal.config.model_class in WITH_MATRIX)
    targets = ids().shape[0] * (SEQ_LEN - 1)
    theirs = causal.theirs(ids(), labels=ids()).loss
    theirs.backward()
    wanted = {name: parameter.grad for name, parameter in causal.named_parameters()}
    causal.zero_grad()
    ours = nats_of(causal, ids()) / targets
    ours.backward()
    # The same float32 forward; the loss and what flows back from it are summed in another order.
    assert abs(float((ours - theirs).detach())) <= 64 * 2**-24 * float(theirs.detach())
    assert abs(float(token_nats(causal, ids()).sum()) / targets - float(ours.detach())) <= 1e-6 * float(ours.detach())
    for name, parameter in causal.named_parameters():
        assert parameter.grad is not None and wanted[name] is not None, name
        bound = 1000 * 2**-24 * max(1e-3, float(wanted[name].abs().max()))
        assert float((parameter.grad - wanted[name]).abs().max()) <= bound, name


def test_weights_are_those_that_the_class_draws_from_the_seed(causal):
    config = copy.deepcopy(causal.theirs.config)
    torch.manual_seed(3)
    theirs = type(causal.theirs)(config).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in causal.theirs.state_dict().items())
    before = torch.get_rng_state()
    other = build(causal.config, VOCAB)
    initialize(other, 4)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(token_nats(other.eval(), ids()), token_nats(causal, ids()))
    counts = num_parameters(causal)
    assert counts["total"] == sum(parameter.numel() for parameter in causal.theirs.parameters())
    assert counts == num_parameters(build(causal.config, VOCAB, "meta"))
    ends = {causal.theirs.get_input_embeddings().weight, causal.theirs.get_output_embeddings().weight}
    assert counts["total"] - counts["without_embeddings"] == sum(end.numel() for end in ends)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(type="llama", **SHAPE),
        MambaConfig(type="mamba", hidden_size=12, num_hidden_layers=3),
        config_of("GPT2LMHeadModel"),  # with dropout
        config_of("Gemma2ForCausalLM"),
    ],
    ids=["llama", "mamba", "gpt2", "gemma2"],
)
def test_gradient_checkpointing_changes_no_bit(config):
    found = []
    for checkpointed in (False, True):
        model = build(config, VOCAB)
        initialize(model, 1)
        if checkpointed:
            model.use_gradient_checkpointing()
        saved: list[int] = []

        def keep(x: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(x.numel())
            return x

        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            nats = nats_of(model.train(), ids())
        nats.backward()
        grads = [parameter.grad for parameter in model.parameters()]
        assert None not in grads
        found.append((nats, grads, sum(saved)))
    (nats, grads, kept), (again, regrads, less) = found
    assert torch.equal(nats, again) and all(torch.equal(a, b) for a, b in zip(grads, regrads, strict=True))
    assert less < kept


# --- runs ---


def toml(model: str, **keys: object) -> str:
    fields = tomli_w.dumps({"model": {"type": model, **keys}})
    return TINY.replace("[data]", fields + "[data]").replace("steps = 14", f"steps = {STEPS}")


@pytest.fixture
def train(tiny_root):
    """Trains the run of a config's text in the root of tiny tokens. `stop` ends it after so many steps."""

    def trained(name: str, text: str, *overrides: str, stop: int | None = None) -> Path:
        (tiny_root / "hf.toml").write_text(f'name = "{name}"\n{text}')
        config = load_run([tiny_root / "hf.toml"], [f"root={tiny_root}", *overrides])
        settled = run.settle(config, run.choices(config, 1, lambda: "cpu"))

        def on_record(record: dict) -> None:
            if record["step"] == stop and "train/loss" in record:
                raise KeyboardInterrupt

        if stop is None:
            loop.train(settled, World(), on_record)
        else:
            with pytest.raises(KeyboardInterrupt):
                loop.train(settled, World(), on_record)
        return settled.folder

    return trained


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        found = model.eval()(ids())
    return found if isinstance(found, torch.Tensor) else found.logits


def loaded(folder: Path):
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "OPTForCausalLM", "Gemma2ForCausalLM", "MixtralForCausalLM"])
def test_a_run_resumes_to_the_bit_and_its_checkpoints_are_transformers(tiny_root, train, name):
    from transformers import AutoTokenizer

    text = toml("hf", model_class=name, **CLASSES[name])
    whole = train(f"{name}-whole", text)
    cut = train(f"{name}-cut", text, stop=2)
    torch.manual_seed(99)  # whatever the process drew in between
    assert train(f"{name}-cut", text) == cut
    assert weights_of(whole, STEPS) == weights_of(cut, STEPS)
    losses = [record["validation/loss"] for record in read_records(whole / METRICS) if "validation/loss" in record]
    assert losses[-1] < losses[0]
    folder = run.folder_of(whole, STEPS)
    theirs = loaded(folder)
    assert type(theirs).__name__ == name
    back, _ = hf.read_folder(folder)
    assert torch.equal(logits(theirs), logits(back)) and len(AutoTokenizer.from_pretrained(folder)) == 300
    text = call("generate", whole, "Once upon", "-n", "5")
    assert text.startswith("Once upon") and text == call("generate", whole, "Once upon", "-n", "5")


@pytest.mark.slow
def test_across_workers_dropout_belongs_to_the_slice(tiny_root):
    """Two processes drop what one alone drops."""
    text = toml("hf", model_class="GPT2LMHeadModel", **GPT2)
    (tiny_root / "dropout.toml").write_text('name = "dropout"\n' + text)
    arguments = [f"root={tiny_root}", "precision.reproducible=across-workers", "batch.sequences=8", "budget.steps=4"]
    for workers in (1, 2):
        call(
            "train",
            tiny_root / "dropout.toml",
            *arguments,
            f"name=dropout-{workers}",
            f"num_workers={workers}",
            "executor=local",
        )
    alone, shared = (tiny_root / "runs" / f"dropout-{workers}" for workers in (1, 2))
    assert weights_of(alone, 4) == weights_of(shared, 4)


def test_dry_run_says_what_it_is(tiny_root):
    (tiny_root / "dry.toml").write_text('name = "dry"\n' + toml("hf", model_class="GPT2LMHeadModel", **GPT2))
    out = call("train", tiny_root / "dry.toml", f"root={tiny_root}", "--dry-run")
    model = build(config_of("GPT2LMHeadModel"), 300, "meta")
    assert f"hf, {num_parameters(model)['total']:,} parameters" in out and not (tiny_root / "runs" / "dry").exists()


# --- beginning from what was trained before ---


@pytest.fixture(scope="module")
def neox(tiny_root, tmp_path_factory) -> Path:
    """A folder of transformers' own making: weights in several files, in half precision, with the tokenizer."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("neox")
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=304, max_position_embeddings=512, **SHAPE)).bfloat16()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert (folder / hf.INDEX).is_file()
    for file in (tiny_root / "tokens" / "tiny" / "tokenizer").iterdir():
        shutil.copy(file, folder)
    return folder


def test_a_run_begins_from_a_folder_and_goes_on_without_it(tiny_root, train, neox, tmp_path):
    source = tmp_path / "neox"
    shutil.copytree(neox, source)
    text = toml("hf", init_from=str(source))
    whole = train("from-folder", text)
    wanted = loaded(source).float()
    assert torch.equal(logits(loaded(run.folder_of(whole, 0))), logits(wanted))
    assert weights_of(whole, STEPS) != weights_of(whole, 0)
    cut = train("from-folder-cut", text, stop=2)
    with pytest.raises(IdentityError, match=r"model.attention_dropout is None there, 0.5 here"):
        train("from-folder-cut", text, "model.attention_dropout=0.5")
    with next(source.glob("model-00001-of-*.safetensors")).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"x")
    config = run.stored_run(cut)
    with pytest.raises(SealError, match="holds other weights now than when from-folder-cut was begun"):
        pretrained.folder_of(config)
    shutil.rmtree(source)
    train("from-folder-cut", text)
    assert weights_of(cut, STEPS) == weights_of(whole, STEPS)
    fork = train("from-folder-fork", text, f"from=runs/from-folder@{STEPS}", f"budget.steps={STEPS + 1}")
    assert weights_of(fork, STEPS) == weights_of(whole, STEPS)
    with pytest.raises(ConfigError, match=r"no such folder here, and no name of a repo"):
        train("from-nothing", text)


def test_our_families_begin_from_runs_and_from_transformers_folders(tiny_root, train, tmp_path):
    for model, keys in (
        ("llama", {**SHAPE, "rope_theta": 5e3}),
        ("mamba", {"hidden_size": 12, "num_hidden_layers": 2}),
    ):
        first = train(f"{model}-first", toml(model, **keys))
        second = train(f"{model}-second", toml(model, init_from=f"runs/{model}-first@2"))
        assert weights_of(second, 0) == weights_of(first, 2)
        assert (run.folder_of(second, 0) / "config.json").read_text() == (
            run.folder_of(first, 2) / "config.json"
        ).read_text()
        theirs = train(f"{model}-theirs", toml("hf", init_from=f"runs/{model}-first@2"))
        assert torch.equal(logits(loaded(run.folder_of(theirs, 0))), logits(loaded(run.folder_of(first, 2))))
        loaded(run.folder_of(first, STEPS)).bfloat16().save_pretrained(tmp_path / model)
        third = train(f"{model}-third", toml(model, init_from=str(tmp_path / model)))
        assert torch.equal(logits(loaded(run.folder_of(third, 0))), logits(loaded(tmp_path / model).float()))
    with pytest.raises(ConfigError, match="holds a 'mamba'"):
        train("crossed", toml("llama", init_from="runs/mamba-first"))
    with pytest.raises(SealError, match=r"no checkpoint of step 9; there are 0, 1, 2, 3"):
        train("crossed", toml("llama", init_from="runs/llama-first@9"))
    with pytest.raises(SealError, match=r"size mismatch for model.layers.0.mlp"):
        train("crossed", toml("llama", init_from="runs/llama-first"), "model.intermediate_size=40")


@pytest.mark.parametrize("model, keys", [("llama", SHAPE), ("hf", {"model_class": "GPT2LMHeadModel", **GPT2})])
def test_embeddings_are_resized_when_asked(tiny_root, train, model, keys):
    first = train(f"{model}-narrow", toml(model, **keys))
    text = toml(model, init_from=f"runs/{model}-narrow", vocab_size=320)
    with pytest.raises(ConfigError, match=r"model.vocab_size is 320, .* has 300: .*resize_embeddings = true"):
        train(f"{model}-wide", text)
    wide = train(f"{model}-wide", text, "model.resize_embeddings=true")
    before, after = loaded(run.folder_of(first, STEPS)), loaded(run.folder_of(wide, 0))
    assert torch.equal(logits(before), logits(after)[..., :300]) and after.config.vocab_size == 320
    assert after.get_input_embeddings().weight[300:].std() > 0


def test_a_repo_on_the_hub_is_pinned_to_the_commit_of_the_start(tiny_root, train, neox, hub, tmp_path, monkeypatch):
    repo = tmp_path / "repo"
    shutil.copytree(neox, repo)
    commit = hub.store.add("model", "some/neox", repo, False)
    text = toml("hf", init_from="some/neox@main")
    cut = train("from-hub", text, stop=2)
    assert f'version = "{commit}"' in (cut / "config.toml").read_text()
    assert torch.equal(logits(loaded(run.folder_of(cut, 0))), logits(loaded(neox).float()))
    assert not [one.path for one in hub.requests if ".bin" in one.path or ".py" in one.path]
    shutil.rmtree(repo)
    (repo / "x").mkdir(parents=True)
    (repo / "config.json").write_text("{}")
    assert hub.store.add("model", "some/neox", repo, False) != commit
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nor is the Hub asked again
    train("from-hub", text)
    assert weights_of(cut, STEPS) == weights_of(train("from-the-folder", toml("hf", init_from=str(neox))), STEPS)
    with pytest.raises(HubError, match=r"other/neox: no such folder here, nor such a repo on the Hub"):
        train("from-nowhere", toml("hf", init_from="other/neox"))


def test_tokens_are_made_with_the_tokenizer_of_the_model(neox, tmp_path):
    (tmp_path / "run.toml").write_text('name = "own"\n' + toml("hf", init_from=str(neox)))
    out = call("train", tmp_path / "run.toml", f"root={tmp_path}", "budget.steps=3")
    assert "finished" in call("train", tmp_path / "run.toml", f"root={tmp_path}", "budget.steps=3"), out
    made = (tmp_path / "tokens/tiny/tokenizer/tokenizer.json").read_bytes()
    assert made == (neox / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    "keys, says",
    [
        ({"init_from": "x", "pretrained": {"version": "1"}}, "model.pretrained: a run writes it"),
        ({"n_layr": 2}, r"model: n_layr: unknown key of GPT2Config; did you mean 'n_layer'\?"),
        ({"model_class": "GPT2LMHead"}, r"no causal-LM class of transformers [\d.]+; did you mean 'GPT2LMHeadModel'\?"),
        ({"model_class": "GPT2ForSequenceClassification"}, "is no causal-LM class"),
        ({"n_layer": "two"}, r"GPT2Config: Field 'n_layer' expected int, got str"),
        ({"n_head": 5}, r"GPT2LMHeadModel: .*divisible by num_heads"),
        ({"dtype": "bfloat16"}, "dtype: unknown key"),
        ({"n_positions": 100}, r"data.seq_len 384 is beyond the 100 positions"),
        (
            {"model_class": "BertLMHeadModel", "n_embd": None, "n_layer": None, "n_head": None, **SHAPE},
            "sees tokens that",
        ),
    ],
)
def test_a_config_that_transformers_refuses_is_one_line(train, tiny_root, keys, says):
    table = {"model_class": "GPT2LMHeadModel", **GPT2, **keys}
    text = toml("hf", **{key: value for key, value in table.items() if value is not None})
    with pytest.raises(ConfigError, match=says) as caught:
        train("refused", text)
    assert len(str(caught.value).splitlines()) == 1 and not list((tiny_root / "runs").glob("refused/step*"))


def test_a_folder_that_cannot_be_taken_is_one_line(train, neox, tiny_root, tokenizer_dir, tmp_path):
    def changed(name: str, **config: object) -> Path:
        folder = tmp_path / name
        shutil.copytree(neox, folder)
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**stored, **config}))
        return folder

    pickled = changed("pickled")
    for path in pickled.glob("model*"):
        path.unlink()
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    foreign = changed("foreign")
    for file in tokenizer_dir.iterdir():
        shutil.copy(file, foreign)
    lacking = changed("lacking")
    name = "gpt_neox.final_layer_norm.weight"
    shard = lacking / json.loads((lacking / hf.INDEX).read_text())["weight_map"][name]
    save_file({key: value for key, value in load_file(shard).items() if key != name}, shard, {"format": "pt"})
    for folder, kind, says in (
        (pickled, SealError, "only pytorch_model.bin: a pickle, which is not read"),
        (changed("coded", auto_map={"AutoModelForCausalLM": "evil.Model"}), SealError, "such code is not run"),
        (changed("quantized", quantization_config={"bits": 4}), SealError, "quantized weights cannot be trained"),
        (
            changed("deeper", num_hidden_layers=3),
            SealError,
            r"not weights of this GPTNeoX.*: it lacks gpt_neox.layers.2",
        ),
        (changed("shallower", num_hidden_layers=1), SealError, "it holds, without a place in this model, gpt_neox"),
        (lacking, SealError, "it lacks gpt_neox.final_layer_norm.weight"),
        (foreign, TokensError, r"token \d+ is '.*', for the model of .* it is '.*': make the tokens with its"),
        (changed("small", vocab_size=200), TokensError, "beyond model.vocab_size 200; .*resize_embeddings"),
    ):
        with pytest.raises(kind, match=says) as caught:
            train("refused-folder", toml("hf", init_from=str(folder)))
        assert len(str(caught.value).splitlines()) == 1 and not list((tiny_root / "runs").glob("refused-folder/step*"))
    with pytest.raises(ConfigError, match=r"model_type 'gpt_neox' is not one of llama, mamba; type = \"hf\" takes any"):
        train("refused-folder", toml("llama", init_from=str(neox)))
