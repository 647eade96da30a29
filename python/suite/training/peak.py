"""What a device's matrix products reach at best: the measure that MFU is taken against.

Measured, not read from a data sheet: those speak of clocks and units that no process gets. Once for a device, dtype,
number of threads and version of torch, in half a second, then kept among the user's caches. One process measures at a
time and the others wait for its figure, so runs that start side by side do not measure each other.
"""

from __future__ import annotations

import hashlib
import json
import time

import torch

from suite.base.errors import SealError
from suite.base.store import locked, read_json, write_json
from suite.data import cache
from suite.training.environment import cpu_name

SECONDS = 0.5
SIZES = {"cpu": 1024, "cuda": 8192}  # of square matrices: 26 ms at 80 GFLOP/s, 2 ms at 600 TFLOP/s


def matmul_peak(device: str, dtype: torch.dtype) -> float:
    """FLOPs per second of this process's threads on `device`, or of one GPU: measured now, or when it first was."""
    kind = torch.device(device).type
    about = {
        "device": torch.cuda.get_device_name(device) if kind == "cuda" else cpu_name(),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads() if kind == "cpu" else None,
        "precision": torch.get_float32_matmul_precision(),
        "torch": torch.__version__,
    }
    folder = cache.root() / "peaks"
    with locked(folder):
        path = folder / f"{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}.json"
        try:
            if path.is_file():
                return float(read_json(path)["flops_per_second"])
        except (SealError, KeyError, TypeError, ValueError):
            pass  # damaged: measure again
        found = _measure(device, dtype)
        write_json(path, {**about, "flops_per_second": found})
    return found


def _measure(device: str, dtype: torch.dtype) -> float:
    """The best of what half a second allows: everything that disturbs a product makes it slower."""
    kind = torch.device(device).type
    size = SIZES[kind]
    generator = torch.Generator(device).manual_seed(0)  # of its own: the run's draws stay what they are
    a, b = (torch.rand(size, size, generator=generator, device=device).to(dtype) for _ in range(2))
    # One thread's own time does not count what others take of its core; of several threads it would be the sum.
    alone = kind == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if alone else time.perf_counter
    fastest, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < SECONDS or fastest == float("inf"):
        if kind == "cuda":
            torch.cuda.synchronize(device)
        before = clock()
        torch.mm(a, b)
        if kind == "cuda":
            torch.cuda.synchronize(device)
        fastest = min(fastest, clock() - before)
    if kind == "cuda":
        del a, b
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)  # a run's peak is its own
    return 2 * size**3 / fastest
