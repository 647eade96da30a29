"""The kernels for GPUs, where there is none: run by Triton's interpreter, and compiled for one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


@pytest.mark.slow
def test_kernels_are_the_reference_under_the_interpreter():
    """In a process of its own: triton reads the switch once, when it is imported."""
    checks = Path(__file__).with_name("interpreted.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(checks)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]


# Names of arguments that are neither pointers to what the inputs are, nor integers.
FLOATS = {"A", "D", "bias", "states", "nats", "A_part", "B_part", "C_part", "D_part", "weight_part", "bias_part"}
INTEGERS = {"time", "channels", "num_states", "chunks", "tiles", "vocab", "stride", "ignore"}
KERNELS = [
    ("triton_scan", "_forward", {"STEPS": 8, "N": 16, "GROUP": 16}),
    ("triton_scan", "_backward", {"STEPS": 8, "N": 16, "GROUP": 16}),
    ("triton_conv", "_forward", {"STEPS": 32, "GROUP": 32, "K": 4}),
    ("triton_conv", "_backward", {"STEPS": 32, "GROUP": 32, "K": 4}),
    ("triton_loss", "_softmax_gradient", {"WITH_GRAD": True, "PIECE": 4096}),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "module, name, constants", KERNELS, ids=lambda value: str(value) if isinstance(value, str) else ""
)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_kernels_compile_for_a_gpu(module, name, constants, dtype, tmp_path, monkeypatch):
    """To machine code for sm_90, by the assembler that triton brings: no GPU is needed for that."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(importlib.import_module(f"suite.models.ops.{module}"), name)
    if "HAS_STARTS" in kernel.arg_names:
        constants = {**constants, "HAS_STARTS": True}
    signature = {}
    for argument in kernel.arg_names:
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in INTEGERS or argument.endswith(("_b", "_t")):
            signature[argument] = "i32"
        else:
            signature[argument] = (
                "*i64" if argument in ("starts", "targets") else f"*{'fp32' if argument in FLOATS else dtype}"
            )
    compiled = triton.compile(
        ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32), options={"num_warps": 1}
    )
    assert compiled.asm["cubin"]
    assert "atom" not in compiled.asm["ptx"]  # sums in whatever order threads arrive would not repeat their bits
