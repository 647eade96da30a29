"""What a step costs beside its time: the share of the device's peak, memory, energy.

Reading memory and energy takes 40 microseconds to a millisecond, so they are read once 4,000 times as long as the last
reading took has passed: 0.025 % of the time, however short steps are, and at every step where they are long. What
remains is a microsecond a step.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import torch

from suite.base.world import World
from suite.training import peak
from suite.training.config import RunConfig
from suite.training.flops import Flops
from suite.training.update import DTYPES

POWERCAP = Path("/sys/class/powercap")
PATIENCE = 4000


def peak_bytes(device: str) -> int:
    """The most memory that this process has had so far: of the GPU what torch allocated, else resident."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    try:
        # Not getrusage: across exec its maximum keeps that of the process which started this one.
        status = Path("/proc/self/status").read_bytes()
        return int(status.partition(b"VmHWM:")[2].split(None, 1)[0]) * 1024
    except (OSError, IndexError, ValueError):  # not Linux
        import resource
        import sys

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024


class Energy(Protocol):
    def joules(self) -> float:
        """What was used since the last call, or since it was made."""
        ...


class Rapl:
    """The processor's own counters of its packages, in microjoules. They belong to all that runs there."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        """Raises OSError where there are none that this user may read."""
        self.zones = [zone for zone in sorted(folder.glob("intel-rapl:*")) if zone.name.count(":") == 1]
        if not self.zones:
            raise FileNotFoundError(folder)
        self.ranges = [int((zone / "max_energy_range_uj").read_text()) for zone in self.zones]
        self.last = self._read()

    def _read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self.zones]

    def joules(self) -> float:
        before, self.last = self.last, self._read()
        used = 0
        for then, now, largest in zip(before, self.last, self.ranges, strict=True):
            used += now - then if now >= then else now - then + largest + 1  # it begins anew at 0
        return used / 1e6


class Nvml:
    """A GPU's counter since its driver was loaded, in millijoules (Volta and newer)."""

    def __init__(self, device: str) -> None:
        """Raises OSError where the package or the counter is missing."""
        try:
            import pynvml
        except ImportError:
            raise OSError("nvidia-ml-py is not installed") from None
        try:
            pynvml.nvmlInit()
            # By its id: CUDA counts only the devices that it may see.
            uuid = torch.cuda.get_device_properties(device).uuid
            self.handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}".encode())
            self.read = pynvml.nvmlDeviceGetTotalEnergyConsumption
            self.last = self.read(self.handle)
        except (pynvml.NVMLError, RuntimeError, AssertionError) as error:
            raise OSError(f"no energy counter: {error}") from None

    def joules(self) -> float:
        before, self.last = self.last, self.read(self.handle)
        return (self.last - before) / 1e3


def energy_of(device: str) -> Energy | None:
    """What tells this device's energy, None where nothing does."""
    try:
        return Nvml(device) if device.startswith("cuda") else Rapl()
    except (OSError, ValueError):
        return None


class Meter:
    """`read(tokens, seconds)` after each step of a run, on its first worker."""

    def __init__(self, config: RunConfig, flops: Flops, world: World) -> None:
        self.device = world.device
        self.peak_flops = peak.matmul_peak(self.device, DTYPES[config.precision.dtype])  # per second, of one worker
        self.per_token = flops.training_per_token / (self.peak_flops * world.size)
        self.energy = energy_of(self.device)
        self.read_next = 0.0

    @property
    def about(self) -> dict[str, float]:
        """For environment.json."""
        return {"matmul_peak_flops_per_second": self.peak_flops}

    def read(self, tokens: int, seconds: float) -> dict[str, Any]:
        """`train/mfu` of a step of all workers; now and then `memory/peak_bytes` and `energy/joules` of this one.

        The joules are those since the record before that has them, so a run's sum is what it used.
        """
        values: dict[str, Any] = {"train/mfu": tokens * self.per_token / seconds} if seconds else {}
        began = time.perf_counter()
        if began < self.read_next:
            return values
        values["memory/peak_bytes"] = peak_bytes(self.device)
        if self.energy:
            try:
                values["energy/joules"] = self.energy.joules()
            except Exception:  # a counter that fails is no reason to end a run
                self.energy = None
        now = time.perf_counter()
        self.read_next = now + PATIENCE * (now - began)
        return values
