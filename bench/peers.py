"""Other people's training steps, on the same rows, at the same widths: what bench/train.py compares with.

Each is forward, backward, clip and AdamW as that project's loop has it. A peer that is not installed is left out.
litgpt and mambapy are in no extra of ours, for litgpt holds huggingface_hub back; the whole table wants
`uv pip install --target peers --no-deps litgpt mambapy accelerate psutil lightning lightning-utilities torchmetrics`,
then PYTHONPATH=peers.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite.models.config import LlamaConfig, MambaConfig

Step = Callable[[], object]
LEARNING_RATE, BETAS, DECAY = 5e-4, (0.9, 0.95), 0.1


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def stepping(model: nn.Module, loss_of: Callable[[], Tensor], **adamw: object) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, BETAS, weight_decay=DECAY, **adamw)  # pyright: ignore[reportArgumentType]

    def one_step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return one_step


def transformers_model(config: LlamaConfig | MambaConfig, vocab: int, seq_len: int, **changes: object) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**config.to_hf(vocab, seq_len), **changes})).train()


def delphi(config: LlamaConfig | MambaConfig, vocab: int, ids_BT: Tensor) -> Step:
    """transformers' model in a bare loop: delphi's step, restated."""
    model = transformers_model(config, vocab, ids_BT.shape[1])
    return stepping(model, lambda: model(ids_BT, labels=ids_BT).loss)


def autocast(config: LlamaConfig, vocab: int, ids_BT: Tensor) -> Step:
    """The same under torch's autocast to bfloat16."""
    model = transformers_model(config, vocab, ids_BT.shape[1])

    def loss_of() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(ids_BT, labels=ids_BT).loss

    return stepping(model, loss_of, fused=True)


def trainer(config: LlamaConfig, vocab: int, ids_BT: Tensor) -> Step | None:
    """transformers' Trainer: its training_step, with the clip and the update that its loop does around it."""
    if find_spec("accelerate") is None:
        return None
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(), use_cpu=True, report_to=[], learning_rate=LEARNING_RATE, weight_decay=DECAY,
        adam_beta1=BETAS[0], adam_beta2=BETAS[1], disable_tqdm=True,
    )  # fmt: skip
    model = transformers_model(config, vocab, ids_BT.shape[1])
    host = Trainer(model, arguments)
    host.create_optimizer()
    host.current_gradient_accumulation_steps = 1  # what its loop sets before each step
    batch = {"input_ids": ids_BT, "labels": ids_BT}

    def one_step() -> None:
        host.training_step(model, batch)
        host.accelerator.clip_grad_norm_(model.parameters(), 1.0)
        host.optimizer.step()  # pyright: ignore[reportOptionalMemberAccess]
        model.zero_grad()

    return one_step


class NanoBlock(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        D, self.heads = config.hidden_size, config.num_attention_heads
        self.ln_1, self.ln_2 = nn.LayerNorm(D, bias=False), nn.LayerNorm(D, bias=False)
        self.c_attn, self.c_proj = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
        self.c_fc, self.c_out = nn.Linear(D, 4 * D, bias=False), nn.Linear(4 * D, D, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        qkv = self.c_attn(self.ln_1(x_BTD)).split(D, 2)
        q, k, v = (x.view(B, T, self.heads, D // self.heads).transpose(1, 2) for x in qkv)
        y_BTD = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, D)
        x_BTD = x_BTD + self.c_proj(y_BTD)
        return x_BTD + self.c_out(F.gelu(self.c_fc(self.ln_2(x_BTD))))


class NanoGPT(nn.Module):
    """nanoGPT's model at a llama's widths: learned positions, GELU, tied embeddings, a head of keys for each query's.

    At the same widths it has other work to do than a llama: fewer weights in the middle, more in attention.
    """

    def __init__(self, config: LlamaConfig, vocab: int, seq_len: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocab, config.hidden_size), nn.Embedding(seq_len, config.hidden_size)
        self.h = nn.ModuleList(NanoBlock(config) for _ in range(config.num_hidden_layers))
        self.ln_f = nn.LayerNorm(config.hidden_size, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, 0.0, 0.02)

    def forward(self, ids_BT: Tensor) -> Tensor:
        inputs_BT, targets_BT = ids_BT[:, :-1], ids_BT[:, 1:]
        x_BTD = self.wte(inputs_BT) + self.wpe.weight[: inputs_BT.shape[1]]
        for block in self.h:
            x_BTD = block(x_BTD)
        logits_BTV = self.ln_f(x_BTD) @ self.wte.weight.T
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def nanogpt(config: LlamaConfig, vocab: int, ids_BT: Tensor) -> Step:
    torch.manual_seed(0)
    model = NanoGPT(config, vocab, ids_BT.shape[1])
    return stepping(model, lambda: model(ids_BT), fused=True)


def litgpt(config: LlamaConfig, vocab: int, ids_BT: Tensor) -> Step | None:
    if find_spec("litgpt") is None:
        return None
    from litgpt.model import GPT, Config  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    model = GPT(
        Config(
            name="", block_size=ids_BT.shape[1], padded_vocab_size=vocab, vocab_size=vocab,
            n_layer=config.num_hidden_layers, n_head=config.num_attention_heads, n_query_groups=config.num_kv_heads,
            n_embd=config.hidden_size, intermediate_size=config.intermediate_size, rotary_percentage=1.0,
            parallel_residual=False, bias=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP",
        )
    )  # fmt: skip

    def loss_of() -> Tensor:
        logits_BTV = model(ids_BT[:, :-1])
        return F.cross_entropy(logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten())

    return stepping(model, loss_of, fused=True)


def mambapy(config: MambaConfig, vocab: int, ids_BT: Tensor) -> Step | None:
    """transformers' Mamba with mambapy's parallel scan in place of its loop."""
    if find_spec("mambapy") is None:
        return None
    model = transformers_model(config, vocab, ids_BT.shape[1], use_mambapy=True)
    return stepping(model, lambda: model(ids_BT, labels=ids_BT).loss)


LLAMA = {"transformers": delphi, "Trainer": trainer, "nanoGPT": nanogpt, "litgpt": litgpt}
MAMBA = {"transformers": delphi, "mambapy": mambapy}
PACKAGE = {"transformers": "transformers", "Trainer": "transformers", "nanoGPT": "torch", "litgpt": "litgpt",
           "mambapy": "mambapy"}  # fmt: skip
