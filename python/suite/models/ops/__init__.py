"""The operations that cost a small model most, each a fast path beside its slow and obvious reference.

On CPU in float32 the selective scan and the causal convolution run in Rust (rust/core/src/kernels). Any other device or
dtype takes the reference, chosen by the tensors alone: what happens to be installed never changes a result.
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
