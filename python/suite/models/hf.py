"""A model as a transformers folder, in and out, without importing transformers unless the model is one of its classes.

config.json, generation_config.json and model.safetensors: what AutoModelForCausalLM.from_pretrained reads as it lies.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from suite.base.errors import SealError
from suite.base.special import SpecialIds
from suite.base.store import read_json, write_json
from suite.models.build import Model, build
from suite.models.causal import Causal
from suite.models.config import HfConfig, LlamaConfig, MambaConfig, Pretrained
from suite.models.llama import Llama
from suite.models.mamba import Mamba

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
_BUFFERS = ("rotary_emb.inv_freq",)  # that old versions of transformers saved; they follow from the config


def weights(model: Model) -> dict[str, Tensor]:
    """The state to save: float32, contiguous, tied weights once, under the name of the embedding."""
    if isinstance(model, Causal):
        return {name: value.to("cpu").contiguous() for name, value in model.state().items()}
    state = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


def write_weights(model: Model, path: Path) -> None:
    save_file(weights(model), path, metadata={"format": "pt"})


def read_weights(model: Model, path: Path) -> None:
    """Fills the model with what `write_weights` wrote. Raises SealError when the file holds other names or shapes."""
    try:
        state = load_file(path)
        if isinstance(model, Causal):
            model.load(state)
        else:
            _load(model, state)
    except (RuntimeError, SafetensorError, StopIteration, OSError) as error:
        raise SealError(f"{path}: not the weights of this model ({_line(error)})") from None


def _load(model: Llama | Mamba, state: dict[str, Tensor]) -> None:
    if model.config.tie_word_embeddings:
        embedding = next(name for name in state if "embed" in name)
        state["lm_head.weight"] = state[embedding]
    model.load_state_dict(state, strict=True)


def _line(error: Exception) -> str:
    """The first thing that an exception names; torch's have a heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else (lines or [repr(error)])[0]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder. Raises SealError when there are none, or one that its index names is missing.

    A pickle is never read: it can run whatever its author likes.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickled = next(iter(sorted(folder.glob("pytorch_model*.bin"))), None)
        raise SealError(
            f"{folder}: no {WEIGHTS}"
            + (f", only {pickled.name}: a pickle, which is not read; save it as safetensors" if pickled else "")
        )
    index = read_json(folder / INDEX)
    found = index.get("weight_map", {}) if isinstance(index, dict) else {}
    paths = [folder / name for name in sorted(set(found.values())) if Path(name).name == name]
    if missing := [path for path in paths if not path.is_file()]:
        raise SealError(f"{missing[0]}: missing, though {INDEX} lists it")
    return paths


def begin_from(model: Model, folder: Path) -> None:
    """Takes the weights of a transformers folder. With `resize_embeddings` ids that both have keep their rows, and
    other rows stay. Raises SealError when the folder does not hold weights of this model, and nothing but safetensors
    is read."""
    paths = weight_files(folder)
    if isinstance(model, Causal):
        model.begin_from(folder)
        return
    try:
        state = {name: value for path in paths for name, value in load_file(path).items()}
        state = {name: value for name, value in state.items() if not name.endswith(_BUFFERS)}
        if model.config.resize_embeddings:
            for name, own in model.state_dict().items():
                if ("embed" in name or name == "lm_head.weight") and name in state:
                    rows = min(len(own), len(state[name]))
                    state[name] = torch.cat([state[name][:rows], own[rows:]])
        _load(model, state)
    except (RuntimeError, SafetensorError, StopIteration, OSError) as error:
        raise SealError(f"{folder}: not weights of this {type(model).__name__} ({_line(error)})") from None


def write_folder(model: Model, folder: Path, seq_len: int, special: SpecialIds) -> None:
    ids = {"bos_token_id": special.bos, "eos_token_id": special.eos, "pad_token_id": special.pad}
    if isinstance(model, Causal):
        model.write(folder)
        config = model.describe()
    else:
        write_weights(model, folder / WEIGHTS)
        config = model.config.to_hf(model.vocab_size, seq_len)
    write_json(folder / "config.json", {**config, **ids, "dtype": "float32"})
    write_json(folder / "generation_config.json", ids)


def config_json(folder: Path) -> dict[str, Any]:
    """config.json of a folder. Raises SealError when there is none, and when it asks for code or is quantized."""
    path = folder / "config.json"
    if not path.is_file():
        raise SealError(f"{folder}: no config.json; a checkpoint folder has one")
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("vocab_size"), int):
        raise SealError(f"{path}: not the config of a language model: it has no vocab_size")
    if "quantization_config" in config:
        raise SealError(f"{path}: quantized weights cannot be trained; name the model they were made from")
    if "auto_map" in config:
        raise SealError(f"{path}: the model's code comes with its weights (auto_map), and such code is not run")
    return config


def native(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json of transformers as the fields of our Llama or Mamba, `type` and `vocab_size` included.

    Raises ValueError, with the reason, for another family and for what ours does not compute.
    """
    families: dict[str, type[LlamaConfig] | type[MambaConfig]] = {"llama": LlamaConfig, "mamba": MambaConfig}
    kind = families.get(config.get("model_type", ""))
    if kind is None:
        raise ValueError(f"model_type {config.get('model_type')!r} is not one of {', '.join(families)}")
    fields = {name: config[name] for name in kind.model_fields if config.get(name) is not None and name != "type"}
    needed: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu", None)}
    if kind is LlamaConfig:
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        fields["rope_theta"] = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
        kinds = rope.get("rope_type") or rope.get("type") or "default"
        if kinds != "default":
            raise ValueError(f"rope_type is {kinds!r}; ours is 'default'")
        head_dim = config["hidden_size"] // config["num_attention_heads"]
        needed |= {"attention_bias": (False, None), "mlp_bias": (False, None), "head_dim": (head_dim, None)}
        needed |= {"attention_dropout": (0, None)}
    else:
        needed |= {"intermediate_size": (config.get("expand", 2) * config["hidden_size"], None)}
    for name, allowed in needed.items():
        if config.get(name) not in allowed:
            raise ValueError(f"{name} is {config[name]!r}; ours is {allowed[0]!r}")
    return {"type": config["model_type"], **fields}


def read_folder(folder: Path) -> tuple[Model, dict[str, Any]]:
    """The model in a folder and its config.json: ours where it is our Llama or Mamba, else a class of transformers."""
    config = config_json(folder)
    try:
        fields = native(config)
        made = (LlamaConfig if fields["type"] == "llama" else MambaConfig)(**fields)
    except ValueError:
        made = any_class(folder, config)
    model = build(made, config["vocab_size"])
    begin_from(model, folder)
    return model.eval(), config


def any_class(folder: Path, config: Mapping[str, Any]) -> HfConfig:
    """The class of transformers that a folder names. Raises SealError when it names none."""
    names = config.get("architectures") or [None]
    try:
        return HfConfig(type="hf", model_class=names[0], pretrained=Pretrained(version="", config=json.dumps(config)))
    except ValidationError as error:
        said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        raise SealError(f"{folder / 'config.json'}: {said}") from None
