"""What a model is, as configs say it: transformers' own field names and defaults. Imports no torch, so that a
config can be checked in a moment."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from suite.base.config import Section


class Pretrained(Section):
    """What `init_from` held when the run began, written down by the run: going on asks neither folder nor Hub again."""

    version: str  # the commit of a repo on the Hub; of a folder, the SHA-256 of its weights
    config: str  # its config.json, as JSON: TOML has no null


class Beginning(Section):
    """Where the first weights come from: the seed, or a model that was trained before."""

    init_from: Annotated[str, Field(min_length=1)] | None = None  # run@step, a folder, or OWNER/NAME@REVISION
    resize_embeddings: bool = False  # ids keep their rows; new ids begin as they would without init_from
    pretrained: Pretrained | None = None  # training/pretrained.py fills it


class LlamaConfig(Beginning):
    """RMSNorm, RoPE, SwiGLU, grouped-query attention (Touvron et al. 2023)."""

    type: Literal["llama"]
    vocab_size: PositiveInt | None = None  # None: the tokenizer's
    hidden_size: PositiveInt
    intermediate_size: PositiveInt
    num_hidden_layers: PositiveInt
    num_attention_heads: PositiveInt
    num_key_value_heads: PositiveInt | None = None  # None: as many as attention heads
    rms_norm_eps: PositiveFloat = 1e-6
    rope_theta: PositiveFloat = 10_000.0
    max_position_embeddings: PositiveInt | None = None  # None: seq_len
    initializer_range: PositiveFloat = 0.02
    tie_word_embeddings: bool = False

    @property
    def num_kv_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @model_validator(mode="after")
    def _shapes_fit(self) -> LlamaConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"hidden_size / num_attention_heads is {self.head_dim}; RoPE turns pairs, so it must be even"
            )
        if self.num_attention_heads % self.num_kv_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_kv_heads}"
            )
        return self

    def to_hf(self, vocab_size: int, seq_len: int) -> dict[str, Any]:
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": self.rms_norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "max_position_embeddings": self.max_position_embeddings or seq_len,
            "initializer_range": self.initializer_range,
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": False,
            "mlp_bias": False,
        }


class MambaConfig(Beginning):
    """Mamba-1 (Gu and Dao 2023): a selective state space with a gated, convolved input."""

    type: Literal["mamba"]
    vocab_size: PositiveInt | None = None  # None: the tokenizer's
    hidden_size: PositiveInt
    num_hidden_layers: PositiveInt
    state_size: Annotated[int, Field(ge=1, le=64)] = 16
    expand: PositiveInt = 2
    conv_kernel: Annotated[int, Field(ge=1, le=8)] = 4
    use_conv_bias: bool = True
    use_bias: bool = False
    layer_norm_epsilon: PositiveFloat = 1e-5
    initializer_range: PositiveFloat = 0.1
    residual_in_fp32: bool = True
    rescale_prenorm_residual: bool = False
    time_step_rank: PositiveInt | Literal["auto"] = "auto"  # auto: ceil(hidden_size / 16)
    time_step_scale: PositiveFloat = 1.0
    time_step_min: PositiveFloat = 0.001
    time_step_max: PositiveFloat = 0.1
    time_step_init_scheme: Literal["random", "constant"] = "random"
    time_step_floor: PositiveFloat = 1e-4
    tie_word_embeddings: bool = True

    @property
    def intermediate_size(self) -> int:
        return self.expand * self.hidden_size

    @property
    def dt_rank(self) -> int:
        return math.ceil(self.hidden_size / 16) if self.time_step_rank == "auto" else self.time_step_rank

    @model_validator(mode="after")
    def _range_is_a_range(self) -> MambaConfig:
        if self.time_step_min > self.time_step_max:
            raise ValueError(f"time_step_min {self.time_step_min} is above time_step_max {self.time_step_max}")
        return self

    def to_hf(self, vocab_size: int, seq_len: int) -> dict[str, Any]:
        own = self.model_dump(exclude={"type", "vocab_size", "time_step_rank", *Beginning.model_fields})
        return {
            "architectures": ["MambaForCausalLM"],
            "model_type": "mamba",
            "vocab_size": vocab_size,
            **own,
            "time_step_rank": self.dt_rank,
            "intermediate_size": self.intermediate_size,
            "hidden_act": "silu",
            # It only shapes initial weights, and transformers 5.23 applies it again to weights that it loads:
            # every out_proj would come back divided by sqrt(num_hidden_layers), without a word.
            "rescale_prenorm_residual": False,
        }


class HfConfig(Beginning):
    """Any causal-LM class of transformers. Every other key goes to its config class, which has the last word."""

    model_config = ConfigDict(extra="allow")

    type: Literal["hf"]
    model_class: str | None = None  # such as GPT2LMHeadModel; None: what init_from holds
    vocab_size: PositiveInt | None = None  # None: the tokenizer's
    attn_implementation: Literal["eager", "sdpa"] | None = None  # None: what transformers takes for this class

    @property
    def fields(self) -> dict[str, Any]:
        """The keys for transformers' config class that the config itself gives; the string "null" is JSON's null."""
        return {key: None if value == "null" else value for key, value in (self.model_extra or {}).items()}

    @property
    def max_positions(self) -> int | None:
        """How many positions the class says it has; None where it does not say."""
        from suite.models import causal

        return causal.max_positions(self)

    @model_validator(mode="after")
    def _transformers_takes_it(self) -> HfConfig:
        from suite.models import causal  # and with it transformers: some seconds that only this type costs

        causal.check(self)
        return self


ModelConfig = Annotated[LlamaConfig | MambaConfig | HfConfig, Field(discriminator="type")]
