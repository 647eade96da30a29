"""Any causal-LM class of transformers, as the loop wants a model. The only file that imports transformers.

The class computes, initialises and saves itself; here is what it is asked for. Where its output layer is a plain
matrix the loss is ours and never holds all logits; where it is more (a soft cap, a scale, a bias) the logits are the
class's own.

B batch, T time, D hidden, V vocabulary, M tokens.
"""

from __future__ import annotations

import copy
import difflib
import functools
import hashlib
import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from suite.base.errors import ConfigError, SealError
from suite.models.config import HfConfig

# Of a config.json: not the model's shape, or decided elsewhere (precision is [precision]'s).
_ABOUT = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache", "model_type")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
_LOUD = 50.0  # logits at which a soft cap cannot be missed
_ROWS_PER_CHUNK = 1024


@functools.cache
def _transformers() -> Any:
    import transformers

    transformers.logging.set_verbosity_error()  # its advice is for who calls it
    transformers.logging.disable_progress_bar()
    return transformers


def class_named(name: str) -> Any:
    """A causal-LM class of transformers. Raises ValueError for a name that is none."""
    transformers = _transformers()
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    names = {
        one
        for value in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        for one in ([value] if isinstance(value, str) else value)
    }
    if name not in names or not hasattr(transformers, name):
        near = difflib.get_close_matches(name, names, 1)
        raise ValueError(
            f"model_class {name!r} is no causal-LM class of transformers {transformers.__version__}"
            + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return getattr(transformers, name)


def config_of(config: HfConfig, vocab_size: int | None = None) -> Any:
    """transformers' config. Raises ValueError, with what its own validation says, when it refuses the keys."""
    assert config.model_class is not None
    kind = class_named(config.model_class).config_class
    # Special ids of another vocabulary are not ours: an embedding would never learn the row of a pad_token_id.
    given: dict[str, Any] = dict.fromkeys(_SPECIAL)
    if config.pretrained is not None:
        given = {key: value for key, value in json.loads(config.pretrained.config).items() if key not in _ABOUT}
    given |= config.fields
    if vocab_size is not None:
        given["vocab_size"] = vocab_size
    try:
        made = kind(**given)
    except Exception as error:  # each class raises its own kinds
        raise ValueError(f"{kind.__name__}: {_line(error)}") from None
    made.use_cache = False
    if config.attn_implementation is not None:
        made._attn_implementation = config.attn_implementation
    return made


def _line(error: Exception) -> str:
    """What an exception says; strict configs put a heading before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[1] if len(lines) > 1 and lines[0].endswith(":") else (lines or [type(error).__name__])[0]
    return said.removeprefix("TypeError: ").removeprefix("ValueError: ")


_mistakes: dict[str, list[str]] = {}  # by config: one is validated several times on its way to the loop


def check(config: HfConfig) -> None:
    """Raises ValueError for an unknown class, for unknown keys, and for shapes that the class cannot be built with."""
    key = config.model_dump_json()
    if key not in _mistakes:
        _mistakes[key] = list(_mistakes_of(config))
    if _mistakes[key]:
        raise ValueError("; ".join(_mistakes[key]))


def _mistakes_of(config: HfConfig) -> Iterator[str]:
    if config.model_class is None:
        yield "model_class is missing: a causal-LM class of transformers, such as GPT2LMHeadModel"
        return
    try:
        kind = class_named(config.model_class).config_class
        known = set(inspect.signature(kind).parameters) | set(kind.attribute_map)
        known -= {*inspect.signature(_transformers().PreTrainedConfig).parameters, "use_cache", "kwargs"}
        if "rope_parameters" in known:
            known |= {"rope_theta", "rope_scaling"}  # as most config.json say it
        for name in config.fields.keys() - known:
            near = difflib.get_close_matches(name, known, 1)
            yield f"{name}: unknown key of {kind.__name__}" + (f"; did you mean {near[0]!r}?" if near else "")
        if config.fields.keys() <= known:
            Causal(config, config.vocab_size or 512, "meta")
    except ValueError as error:
        yield str(error)


def max_positions(config: HfConfig) -> int | None:
    """How many positions the model says it has; None when it does not say."""
    found = getattr(config_of(config), "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def seed_draws(seed: int, step: int, rank: int) -> None:
    """Seeds what dropout draws in a step: it follows from the step, so a resumed run draws what it would have."""
    digest = hashlib.sha256(f"{seed}/draws/{step}/{rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "little"))


class Causal(nn.Module):
    """A model of transformers behind the names that the loop knows. Weights are float32."""

    def __init__(self, config: HfConfig, vocab_size: int, device: torch.device | str = "cpu") -> None:
        """Raises ValueError when the class refuses the config."""
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        assert config.model_class is not None
        kind, made = class_named(config.model_class), config_of(config, vocab_size)
        with torch.random.fork_rng(devices=[]), torch.device(device):
            try:
                self.theirs = kind(made)
            except Exception as error:  # a shape that does not divide, an activation that does not exist
                raise ValueError(f"{kind.__name__}: {_line(error)}") from None

    def draw(self, seed: int) -> None:
        """Draws every weight anew, by the class's own code from one stream on the CPU: the same on every device."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            drawn = type(self.theirs)(copy.deepcopy(self.theirs.config))
        self._take(drawn)
        self._check_causal()
        _ = self.plain  # now, on the CPU: not in the middle of a step

    def _take(self, other: nn.Module) -> None:
        with torch.no_grad():
            mine, theirs = self.theirs.state_dict(), other.state_dict()
            for name, value in mine.items():
                value.copy_(theirs[name])

    def use_gradient_checkpointing(self) -> None:
        """Raises ConfigError for a class that has no such switch."""
        if not self.theirs.supports_gradient_checkpointing:
            raise ConfigError(f"batch.gradient_checkpointing: {type(self.theirs).__name__} of transformers has none")
        enable = getattr(self.theirs, "activation_checkpointing_enable", self.theirs.gradient_checkpointing_enable)
        enable({"use_reentrant": False})

    @functools.cached_property
    def plain(self) -> bool:
        """Whether the logits are the body's states times a matrix and nothing else: tried out, on loud logits."""
        head, body = self.theirs.get_output_embeddings(), self.theirs.base_model
        if body is self.theirs or not isinstance(head, nn.Linear) or head.bias is not None:
            return False
        device, read = head.weight.device, []
        ids_BT = torch.tensor([[0, self.vocab_size - 1, self.vocab_size // 2]], device=device)
        with self._quietly(), torch.autocast(device.type, enabled=False):
            states_BTD = body(ids_BT)[0]
            loudest = float(head(states_BTD).abs().max())
            loud_BTD = states_BTD * (_LOUD / loudest if loudest > 0 else 1.0)

            def louder(module: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
                read.append(given[0])
                return loud_BTD

            with head.register_forward_pre_hook(louder):
                logits_BTV = self.theirs(ids_BT).logits
            return len(read) == 1 and torch.equal(read[0], states_BTD) and torch.equal(logits_BTV, head(loud_BTD))

    def _check_causal(self) -> None:
        """Raises ConfigError when what comes later changes what was predicted before: an encoder, that is."""
        ids_BT = torch.tensor([[0, 1, 0, 1, 0, 1, 0, 1]])
        other_BT = ids_BT.clone()
        other_BT[:, 4:] = 0
        with self._quietly():
            found, wanted = (self.theirs(ids).logits[:, :4] for ids in (other_BT, ids_BT))
        # Where experts are chosen, other tokens change the order of sums; a look ahead changes the sums.
        if float((found - wanted).abs().max()) > 1e-4 * float(wanted.abs().max()):
            raise ConfigError(
                f"model.model_class: {type(self.theirs).__name__} sees tokens that come later, so it cannot learn to "
                "predict them; a class made for encoders may take is_decoder = true"
            )

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        """Neither gradients nor dropout."""
        was = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(was)

    @property
    def lm_head(self) -> Any:
        """What turns `hidden` into logits."""
        return self.theirs.get_output_embeddings() if self.plain else nn.Identity()

    def hidden(self, ids_BT: Tensor) -> Tensor:
        """What `lm_head` reads: the body's states [B, T, D] where it is a matrix, else the logits [B, T, V]."""
        return self.theirs.base_model(ids_BT)[0] if self.plain else self.theirs(ids_BT).logits

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Logits, [B, T, V], by the class's own forward."""
        return self.theirs(ids_BT).logits

    def embeddings(self) -> set[str]:
        """The names of the embedding and output matrices."""
        ends = [self.theirs.get_input_embeddings(), self.theirs.get_output_embeddings()]
        own = {id(end.weight) for end in ends if end is not None}
        return {name for name, parameter in self.named_parameters() if id(parameter) in own}

    def state(self) -> dict[str, Tensor]:
        """Every weight once, by its first name, and the buffers that a state holds; they share the model's memory."""
        first: dict[int, str] = {}
        state = self.theirs.state_dict(keep_vars=True)
        for name, value in state.items():
            first.setdefault(id(value), name)
        return {name: state[name].detach() for name in first.values()}

    def load(self, state: dict[str, Tensor]) -> None:
        """The inverse of `state`. Raises RuntimeError, as torch does, for other names or shapes."""
        if state.keys() != self.state().keys():
            odd = sorted(state.keys() ^ self.state().keys())
            raise RuntimeError(f"names differ: {', '.join(odd[:3])}")
        self.theirs.load_state_dict(state, strict=False)
        _ = self.plain

    def write(self, folder: Path) -> None:
        """As transformers saves it, in one file."""
        self.theirs.save_pretrained(folder, max_shard_size="10TB")

    def describe(self) -> dict[str, Any]:
        """What belongs into config.json."""
        config = self.theirs.config.to_diff_dict()
        for key in ("use_cache", "_name_or_path"):
            config.pop(key, None)
        config["architectures"] = [type(self.theirs).__name__]
        if config.get("rescale_prenorm_residual"):
            config["rescale_prenorm_residual"] = False  # transformers 5.23 would apply it to weights that it loads
        return config

    def begin_from(self, folder: Path) -> None:
        """Takes the weights of a folder, as transformers reads them; new rows of a larger vocabulary stay as drawn.

        Raises SealError for a folder whose weights are not those of this model.
        """
        kind, config = type(self.theirs), copy.deepcopy(self.theirs.config)
        if self.config.resize_embeddings:
            assert self.config.pretrained is not None
            config.vocab_size = json.loads(self.config.pretrained.config)["vocab_size"]
        try:
            read, info = kind.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,  # never a pickle
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:  # what its parts raise: OSError, RuntimeError, KeyError, SafetensorError
            raise SealError(f"{folder}: not weights of {kind.__name__} ({_line(error)})") from None
        for key, what in (("missing_keys", "lacks"), ("unexpected_keys", "holds, without a place in this model,")):
            if info[key]:
                names = ", ".join(sorted(info[key])[:3])
                raise SealError(f"{folder}: not weights of this {kind.__name__}: it {what} {names}")
        if read.config.vocab_size != self.vocab_size:
            old = read.config.vocab_size
            read.resize_token_embeddings(self.vocab_size, mean_resizing=False)
            ends = [(self.theirs.get_input_embeddings(), read.get_input_embeddings())]
            ends.append((self.theirs.get_output_embeddings(), read.get_output_embeddings()))
            with torch.no_grad():
                for mine, theirs in ends:
                    theirs.weight[old:] = mine.weight[old:]
        self._take(read)

    def nats(self, ids_BT: Tensor, targets_BT: Tensor, ignore: int) -> Tensor:
        """Summed nats of the targets but those that are `ignore`, from the class's own logits."""
        logits_MV, targets_M = self.hidden(ids_BT).flatten(0, 1), targets_BT.flatten()
        chunks = zip(logits_MV.split(_ROWS_PER_CHUNK), targets_M.split(_ROWS_PER_CHUNK), strict=True)
        total = torch.zeros((), device=ids_BT.device)
        for logits, targets in chunks:  # each chunk's softmax is found again in the backward
            total = total + checkpoint(_nats, logits, targets, ignore, use_reentrant=False)
        return total


def _nats(logits_MV: Tensor, targets_M: Tensor, ignore: int) -> Tensor:
    return F.cross_entropy(logits_MV.float(), targets_M, ignore_index=ignore, reduction="sum")
