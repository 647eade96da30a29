"""Keys of what happens at which step: the learning rate, checkpoints, evaluations, texts, an early end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from suite.base.config import Section

Fraction = Annotated[float, Field(gt=0, le=1)]
SplitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class ScheduleConfig(Section):
    """The learning rate by the step. `decay_` keys are of wsd: the last part of the run, in which the rate falls."""

    type: Literal["cosine", "wsd", "linear", "constant"] = "cosine"
    warmup_steps: NonNegativeInt = 0
    warmup_tokens: PositiveInt | None = None  # in place of warmup_steps; targets, as budget.tokens counts them
    min_learning_rate: NonNegativeFloat = 0.0
    decay_fraction: Fraction = 0.2
    decay_steps: PositiveInt | None = None  # in place of decay_fraction
    decay_type: Literal["linear", "sqrt", "cosine"] = "linear"  # sqrt: 1 - sqrt(x), Hägele et al. 2024

    @model_validator(mode="after")
    def _one_of_each(self) -> ScheduleConfig:
        if self.warmup_steps and self.warmup_tokens is not None:
            raise ValueError("give one of warmup_steps or warmup_tokens")
        if self.decay_steps is not None and self.decay_fraction != type(self).model_fields["decay_fraction"].default:
            raise ValueError("give one of decay_fraction or decay_steps")
        return self


class CheckpointsConfig(Section):
    """Which steps are kept: the union of what is asked for. 0, the last and the one before wsd's decay always are."""

    per_octave: Annotated[int, Field(ge=0, le=100)] = 2  # 1,2,3,4,6,8,11,16,23,32 ...
    linear: Annotated[int, Field(ge=0, le=100_000)] = 20  # evenly spaced over the run
    in_decay: Annotated[int, Field(ge=0, le=100_000)] = 0  # evenly spaced over wsd's decay
    every: PositiveInt | None = None
    extra: tuple[NonNegativeInt, ...] = ()
    # In place of per_octave and linear: pythia and delphi keep those papers' steps, octaves what per_octave says and
    # nothing linear, every what `every` says alone.
    preset: Literal["octaves", "every", "delphi", "pythia"] | None = None

    @model_validator(mode="after")
    def _says_how_often(self) -> CheckpointsConfig:
        if self.preset == "every" and self.every is None:
            raise ValueError('preset "every" needs checkpoints.every, a number of steps')
        if self.preset == "octaves" and not self.per_octave:
            raise ValueError('preset "octaves" needs checkpoints.per_octave of 1 or more')
        return self


class EvalConfig(Section):
    """Held-out loss, at checkpoints and every so many steps."""

    # Of each split; a row is a document from <bos>, or seq_len tokens of a longer one.
    rows: PositiveInt | Literal["all"] = 512
    every: PositiveInt | None = None  # steps; None: at checkpoints
    splits: tuple[SplitName, ...] = ("validation",)

    @model_validator(mode="after")
    def _validates_first(self) -> EvalConfig:
        if self.splits[:1] != ("validation",) or len(set(self.splits)) < len(self.splits) or "train" in self.splits:
            raise ValueError("splits: 'validation' comes first, then others, each once; 'train' is none of them")
        return self


class EarlyStoppingConfig(Section):
    """Ends the run when the validation loss has not fallen for so many evaluations."""

    patience: PositiveInt | None = None  # evaluations; None: never
    min_delta: NonNegativeFloat = 0.0  # nats per token that count as falling; less does not


class SamplesConfig(Section):
    """Texts written by the model at checkpoints, and every so many steps, to samples.jsonl."""

    prompts: tuple[str, ...] = ()
    every: PositiveInt | None = None  # steps; None: at checkpoints
    per_prompt: PositiveInt = 1
    max_new_tokens: PositiveInt = 100
    temperature: NonNegativeFloat = 0.8  # 0 takes the likeliest token
    top_k: PositiveInt | None = 40
    top_p: Fraction | None = None  # of the likeliest tokens, as many as have this much of the probability
    seed: Seed | None = None  # of a prompt's first text, the next has one more; None: the run's
