"""What a run is, key by key. Frozen data, no clock and no environment in it; units stand in the names."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from suite.base.config import Section
from suite.base.errors import ConfigError
from suite.base.store import root_of
from suite.models.config import ModelConfig
from suite.training.moments import (
    CheckpointsConfig,
    EarlyStoppingConfig,
    EvalConfig,
    SamplesConfig,
    ScheduleConfig,
    Seed,
)

Beta = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$", max_length=200)]
Folder = Annotated[str, Field(min_length=1)]


class ChangeConfig(Section):
    """Documents dropped, swapped or inserted from a step on (data/changes.py); steps as checkpoints count them."""

    after_step: NonNegativeInt = 0  # drop and swap: the last step whose weights know nothing of it
    drop: tuple[NonNegativeInt, ...] = ()  # documents of the training split, by number
    swap: tuple[tuple[NonNegativeInt, NonNegativeInt], ...] = ()  # pairs of them
    insert: Annotated[str, Field(min_length=1)] | None = None  # a text
    at_steps: tuple[PositiveInt, ...] = ()  # insert: the updates that read it; update k leads to step k
    sequence: NonNegativeInt = 0  # insert: of the batch, whose beginning it takes

    @model_validator(mode="after")
    def _says_what_and_when(self) -> ChangeConfig:
        if not (self.drop or self.swap or self.insert is not None):
            raise ValueError("give drop, swap or insert")
        if (self.insert is None) == bool(self.at_steps):
            raise ValueError("insert and at_steps come together")
        return self


class DataConfig(Section):
    """Tokens to train on. When `tokens` or `tokenizer` is not there yet, it is made from `source`."""

    tokens: Folder  # folder, under root
    tokenizer: Folder | None = None  # folder, under root; None: the tokens' own
    source: str | None = None
    feature: str = "text"
    separator: str | None = None
    split: str = "train"
    validation_split: str = "validation"
    vocab_size: PositiveInt = 4096
    tokenizer_split: str = "train"  # what a tokenizer is trained on
    seq_len: Annotated[int, Field(ge=2, le=2**24)] = 512
    # Of tokens that are made. chat: conversations, of which answers alone are counted; said of ones that are there too.
    layout: Literal["stream", "documents", "chat"] = "stream"
    chat_template: Folder = "plain"  # of conversations that are made to rows (data/chat.py)
    order_seed: Seed = 0
    changes: tuple[ChangeConfig, ...] = ()
    isolate: bool = False  # every document in a row is read as if it stood alone, from <bos>

    @model_validator(mode="after")
    def _rows_hold_several_documents(self) -> DataConfig:
        if self.isolate and self.layout == "documents":
            raise ValueError("isolate: rows of layout 'documents' hold one each; leave out isolate, or take 'stream'")
        return self


class BudgetConfig(Section):
    """How long to train: exactly one of these."""

    steps: PositiveInt | None = None
    epochs: PositiveFloat | None = None
    tokens: PositiveInt | None = None  # targets: seq_len - 1 for each sequence, fewer where rows are padded

    @model_validator(mode="after")
    def _one_of_them(self) -> BudgetConfig:
        if sum(value is not None for value in (self.steps, self.epochs, self.tokens)) != 1:
            raise ValueError("give one of steps, epochs or tokens")
        return self

    def num_steps(self, num_rows: int, sequences: int, targets_per_row: float) -> int:
        if self.steps is not None:
            return self.steps
        if self.epochs is not None:
            return max(1, round(self.epochs * num_rows / sequences))
        assert self.tokens is not None
        return math.ceil(self.tokens / (sequences * targets_per_row))


class BatchConfig(Section):
    sequences: Annotated[int, Field(ge=1, le=2**24)] = 64  # in a step, over all workers
    micro_sequences: PositiveInt | None = None  # in one forward and backward of a worker; None: chosen for the device
    gradient_checkpointing: bool = False  # keep each layer's input alone and compute the rest again: the same bits


class OptimizerConfig(Section):
    """AdamW (Loshchilov and Hutter 2019); matrices decay, norms and biases do not."""

    learning_rate: PositiveFloat = 5e-4
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.1
    decay_all: bool = False  # norms and biases decay too
    grad_clip: NonNegativeFloat = 1.0  # global norm; 0 turns it off
    parametrization: Literal["standard", "mup"] = "standard"  # mup: rates and initial weights by width (models/mup.py)
    base_hidden_size: PositiveInt | None = None  # mup: the width that learning_rate was chosen at
    base_head_dim: PositiveInt | None = None  # mup: the head size there; None: heads do not grow with the width

    @model_validator(mode="after")
    def _mup_has_a_base(self) -> OptimizerConfig:
        if self.parametrization == "mup" and self.base_hidden_size is None:
            raise ValueError(
                "parametrization is mup: base_hidden_size is missing, the width learning_rate was chosen at"
            )
        return self


class PrecisionConfig(Section):
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on CUDA, float32 on a CPU
    deterministic: bool = False  # only kernels that repeat their bits; matters on a GPU, a CPU always does
    # Gradients are summed as a fixed tree: the same weights, bit for bit, on 1, 2, 4 ... workers.
    reproducible: Literal["across-workers"] | None = None


class ResumeConfig(Section):
    every_seconds: NonNegativeFloat = 60.0  # 0: at every step
    keep: PositiveInt = 1  # the newest so many states
    steps: tuple[PositiveInt, ...] = ()  # states that stay, to fork from; the one before wsd's decay does too


class TrackerConfig(Section):
    type: Literal["none", "wandb"] = "none"
    project: str = "suite"


class RayConfig(Section):
    """What a worker asks of Ray. The local executor reads none of it."""

    use_gpu: bool | None = None  # None: as `device` says, and where that is auto, when the cluster has a GPU now
    resources_per_worker: dict[str, PositiveFloat] = Field(
        default={}
    )  # CPU: as many as threads; GPU: 1 on cuda; fractions share
    start_seconds: NonNegativeFloat = 900.0  # how long a cluster may take to make room for the workers
    max_failures: NonNegativeInt = 3  # deaths of workers that the run survives

    def device(self) -> str | None:
        """The device that this asks for, None when it leaves it open."""
        if self.use_gpu is None and "GPU" not in self.resources_per_worker:
            return None
        return "cpu" if self.use_gpu is False else "cuda"


# Keys that say how and where, not what: they may change when a run goes on.
OPERATIONAL = (
    "root",
    "executor",
    "num_workers",
    "cuda_graphs",
    "resume.",
    "tracker.",
    "ray.",
    "batch.gradient_checkpointing",
)


class RunConfig(Section):
    """One model's training."""

    name: Name
    from_: Annotated[str | None, Field(alias="from", pattern=r"^.+@[0-9]+$")] = None  # forks a run: runs/NAME@STEP
    seed: Seed = 0
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None  # of a worker; None: its share of this machine's cores
    root: str | None = None  # None: $SUITE_ROOT, or the current folder
    executor: Literal["auto", "local", "ray"] = "auto"
    num_workers: PositiveInt = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cuda_graphs: bool = True  # on one GPU, a step is recorded once and replayed: the same bits, fewer launches
    model: ModelConfig
    data: DataConfig
    budget: BudgetConfig
    batch: BatchConfig = BatchConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    precision: PrecisionConfig = PrecisionConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    eval: EvalConfig = EvalConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    samples: SamplesConfig = SamplesConfig()
    resume: ResumeConfig = ResumeConfig()
    tracker: TrackerConfig = TrackerConfig()
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _workers_share_the_batch(self) -> RunConfig:
        if self.batch.sequences < self.num_workers:
            raise ValueError(f"batch.sequences {self.batch.sequences} is less than num_workers {self.num_workers}")
        return self

    @model_validator(mode="after")
    def _documents_can_be_told_apart(self) -> RunConfig:
        if self.data.isolate and self.model.type == "hf":
            raise ValueError("data.isolate: transformers' classes see the whole row; it works for llama and mamba")
        return self

    @model_validator(mode="after")
    def _batch_is_a_tree(self) -> RunConfig:
        micro = self.batch.micro_sequences
        if self.precision.reproducible is None or micro is None:
            return self
        slices, rest = divmod(self.batch.sequences, micro)
        if rest:
            raise ValueError(
                f"batch.sequences {self.batch.sequences} is not a multiple of batch.micro_sequences {micro}, as "
                "precision.reproducible = 'across-workers' needs"
            )
        most = slices & -slices
        if self.num_workers > most or self.num_workers & (self.num_workers - 1):
            allowed = ", ".join(str(2**k) for k in range(most.bit_length()))
            raise ValueError(
                f"num_workers {self.num_workers}: precision.reproducible = 'across-workers' gives the same bits on "
                f"{allowed} workers with {slices} micro-batches in a step (batch.sequences / batch.micro_sequences)"
            )
        return self

    @model_validator(mode="after")
    def _mup_draws_the_weights(self) -> RunConfig:
        if self.optimizer.parametrization == "mup" and (self.model.type == "hf" or self.model.init_from is not None):
            raise ValueError(
                "optimizer.parametrization = 'mup' is for llama and mamba with fresh weights: its rates belong to the "
                "initial weights that it draws"
            )
        return self

    @model_validator(mode="after")
    def _rate_falls(self) -> RunConfig:
        if self.schedule.min_learning_rate > self.optimizer.learning_rate:
            raise ValueError(
                f"schedule.min_learning_rate {self.schedule.min_learning_rate} is above "
                f"optimizer.learning_rate {self.optimizer.learning_rate}"
            )
        return self

    @model_validator(mode="after")
    def _rows_fit(self) -> RunConfig:
        if self.model.type == "hf" and (limit := self.model.max_positions) and self.data.seq_len - 1 > limit:
            raise ValueError(
                f"data.seq_len {self.data.seq_len} is beyond the {limit} positions of model.model_class "
                f"{self.model.model_class}; its max_position_embeddings (n_positions in some) says how many there are"
            )
        return self

    def check_for_ray(self) -> None:
        """Raises ConfigError when [ray] asks for what cannot be; the local executor does not look at it."""
        asked, gpus = self.ray.device(), self.ray.resources_per_worker.get("GPU")
        if asked not in (None, self.device) or (self.ray.use_gpu is False and gpus):
            given = {"device": self.device, "ray.use_gpu": self.ray.use_gpu, "ray.resources_per_worker.GPU": gpus}
            said = ", ".join(f"{key} is {value}" for key, value in given.items() if value is not None)
            raise ConfigError(f"{said}: these contradict each other")
        if self.num_workers > 1 and gpus and gpus < 1:
            raise ConfigError("ray.resources_per_worker: several workers cannot share a GPU (NCCL refuses); GPU = 1")

    def path(self, relative: str) -> Path:
        """A folder of this piece of work, under its root."""
        return root_of(self.root) / relative

    @property
    def worker_resources(self) -> dict[str, float]:
        """What each worker of a settled run asks of Ray: as configured, else its threads as CPUs, and a GPU on cuda."""
        gpu = {"GPU": 1.0} if self.device == "cuda" else {}
        return {"CPU": float(self.threads or 1), **gpu, **self.ray.resources_per_worker}

    @property
    def folder(self) -> Path:
        return self.path(f"runs/{self.name}")


class SuiteSection(Section):
    """A family: which runs, and how many at a time."""

    members: tuple[str, ...]  # config files, relative to the suite's own
    processes: PositiveInt = 2

    @model_validator(mode="after")
    def _has_members(self) -> SuiteSection:
        if not self.members:
            raise ValueError("a suite needs members")
        return self


def load_run(files: list[Path], overrides: list[str]) -> RunConfig:
    """Layers to a run. Raises ConfigError with a line for every mistake."""
    from suite.base.config import load_layers, validate
    from suite.training.pretrained import filled

    if not files:
        raise ConfigError("no config: name a TOML file, such as configs/mamba-100k.toml")
    table, origins = load_layers(files, overrides)
    if "suite" in table:
        raise ConfigError(f"{files[0]}: a suite of runs, where one run is expected; `suite demo` trains a suite")
    return validate(RunConfig, filled(table), origins)
