"""The softmax between the two products of linear + cross-entropy on a GPU, in Triton: logits become their gradient.

One program takes a token: it reads the token's logits once for the maximum and the sum and once more, from the cache,
to write d nats / d logits over them. torch's own operations read and write them five times, in float32, and mark the
target by scatter_add_, which a GPU does in any order.

M tokens, V vocabulary.
"""

# Kernels are Python to a reader only: triton compiles them, and its values have no types here.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_AT_ONCE = 8192  # logits a program holds; more come in pieces


@triton.jit
def _softmax_gradient(
    logits, targets, nats, vocab, stride, ignore, WITH_GRAD: tl.constexpr, PIECE: tl.constexpr
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    logits += token * stride
    target = tl.load(targets + token)
    counted = target != ignore
    at = tl.arange(0, PIECE)
    largest, total = tl.full((), float("-inf"), tl.float32), tl.zeros((), tl.float32)
    for start in range(0, vocab, PIECE):
        x = tl.load(logits + start + at, mask=start + at < vocab, other=float("-inf")).to(tl.float32)
        larger = tl.maximum(largest, tl.max(x, axis=0))
        total = total * tl.exp(largest - larger) + tl.sum(tl.exp(x - larger), axis=0)
        largest = larger
    known = (target >= 0) & (target < vocab)
    at_target = tl.load(logits + target, mask=known, other=float("nan")).to(tl.float32)
    tl.store(nats + token, tl.where(counted, tl.log(total) + (largest - at_target), 0.0))
    if WITH_GRAD:
        tl.debug_barrier()  # the target's logit is read before any thread writes over it
        for start in range(0, vocab, PIECE):
            x = tl.load(logits + start + at, mask=start + at < vocab, other=float("-inf")).to(tl.float32)
            grad = tl.exp(x - largest) / total - tl.where(start + at == target, 1.0, 0.0)
            tl.store(logits + start + at, tl.where(counted, grad, 0.0), mask=start + at < vocab)


def softmax_gradient_(logits_MV: Tensor, targets_M: Tensor, ignore_index: int, with_grad: bool) -> Tensor:
    """Nats of every target, [M] float32, 0 where it is ignored. With gradients, logits become d nats / d logits.

    logits: float32 or bfloat16, contiguous rows. Nats of a target outside the vocabulary are not a number.
    """
    num_tokens, vocab = logits_MV.shape
    nats = torch.empty(num_tokens, dtype=torch.float32, device=logits_MV.device)
    piece = min(MOST_AT_ONCE, triton.next_power_of_2(vocab))
    if num_tokens:
        _softmax_gradient[(num_tokens,)](
            logits_MV, targets_M, nats, vocab, logits_MV.stride(0), ignore_index,
            WITH_GRAD=with_grad, PIECE=piece, num_warps=max(1, min(8, piece // 512)),
        )  # fmt: skip
    return nats
