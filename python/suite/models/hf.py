"""A model as a transformers folder, in and out, without importing transformers.

config.json, generation_config.json and model.safetensors: what AutoModelForCausalLM.from_pretrained reads as it lies.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from suite.base.errors import SealError
from suite.base.special import SpecialIds
from suite.base.store import write_json
from suite.models.build import Model, build
from suite.models.config import LlamaConfig, MambaConfig

WEIGHTS = "model.safetensors"


def weights(model: Model) -> dict[str, Tensor]:
    """The state to save: float32, contiguous, tied weights once, under the name of the embedding."""
    state = {name: value.detach().to("cpu", torch.float32).contiguous() for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


def write_weights(model: Model, path: Path) -> None:
    save_file(weights(model), path, metadata={"format": "pt"})


def read_weights(model: Model, path: Path) -> None:
    """Fills the model. Raises SealError when the file holds other names or shapes."""
    try:
        state = load_file(path)
        if model.config.tie_word_embeddings:
            embedding = next(name for name in state if "embed" in name)
            state["lm_head.weight"] = state[embedding]
        model.load_state_dict(state, strict=True)
    except (RuntimeError, SafetensorError, StopIteration, OSError) as error:
        raise SealError(f"{path}: not the weights of this model ({str(error).splitlines()[0]})") from None


def write_folder(model: Model, folder: Path, seq_len: int, special: SpecialIds) -> None:
    write_weights(model, folder / WEIGHTS)
    ids = {"bos_token_id": special.bos, "eos_token_id": special.eos, "pad_token_id": special.pad}
    write_json(folder / "config.json", {**model.config.to_hf(model.vocab_size, seq_len), **ids, "dtype": "float32"})
    write_json(folder / "generation_config.json", ids)


def read_folder(folder: Path) -> tuple[Model, dict[str, Any]]:
    """The model in a folder and its config.json. Raises SealError for a family that is not ours."""
    path = folder / "config.json"
    if not path.is_file():
        raise SealError(f"{folder}: no config.json; a checkpoint folder has one")
    config = json.loads(path.read_text(encoding="utf-8"))
    families: dict[str, Any] = {"llama": LlamaConfig, "mamba": MambaConfig}
    kind = families.get(config.get("model_type"))
    if kind is None:
        raise SealError(f"{path}: model_type {config.get('model_type')!r}; this version reads {', '.join(families)}")
    fields = {name: config[name] for name in kind.model_fields if name in config and name != "type"}
    if kind is LlamaConfig:
        fields["rope_theta"] = config.get("rope_parameters", {}).get("rope_theta", 10_000.0)
    model = build(kind(type=config["model_type"], **fields), config["vocab_size"])
    read_weights(model, folder / WEIGHTS)
    return model.eval(), config
