"""The operations that cost a small model most, each a fast path beside its slow and obvious reference.

On CPU in float32 the selective scan and the causal convolution run in Rust (rust/core/src/kernels); on a GPU in float32
and bfloat16 in Triton (triton_*.py). Anything else takes the reference. The tensors alone decide, with one exception:
on a GPU mamba-ssm's scan is used where it is installed and bits need not repeat (mamba_ssm.py).
"""

from suite.models.ops.attention import causal_attention, causal_attention_reference
from suite.models.ops.conv import conv_silu, conv_silu_reference
from suite.models.ops.linear import Linear, linear
from suite.models.ops.loss import linear_cross_entropy, linear_cross_entropy_reference
from suite.models.ops.scan import advance_scan, selective_scan, selective_scan_reference

__all__ = [
    "Linear",
    "advance_scan",
    "causal_attention",
    "causal_attention_reference",
    "conv_silu",
    "conv_silu_reference",
    "linear",
    "linear_cross_entropy",
    "linear_cross_entropy_reference",
    "selective_scan",
    "selective_scan_reference",
]
