"""The GPUs that a process uses: what it holds of their memory, and their energy counters."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU in use by this process, and the memory that the process holds on it; also an energy counter."""

    name: str
    memory_bytes: int
    handle: Any
    nvml: Any

    def read(self) -> int:
        """Return the energy since its driver was loaded, in millijoules (from Volta on)."""
        return int(self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle))

    def joules(self, before: int, after: int) -> float:
        """Return the energy between two readings; 64 bits of millijoules do not wrap around."""
        return (after - before) / 1e3


def load_nvml() -> Any | None:
    """Return NVIDIA's management library, ready to use, or None: it is not installed, or there is no driver."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml


def gpus_of(pid: int, nvml: Any) -> tuple[Gpu, ...]:
    """Return the GPUs on which NVML lists process ``pid``.

    In a container with process ids of its own it lists none; a GPU that does not tell is left out.
    """
    found = []
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        try:
            processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except nvml.NVMLError:
            continue
        name = f"gpu-{index} {nvml.nvmlDeviceGetName(handle)}"
        found += [Gpu(name, mine.usedGpuMemory or 0, handle, nvml) for mine in processes if mine.pid == pid]
    return tuple(found)


def with_energy(gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs that count their energy."""
    found = []
    for gpu in gpus:
        try:
            gpu.read()
        except gpu.nvml.NVMLError:
            continue
        found.append(gpu)
    return tuple(found)


def device_memory_bytes(gpus: tuple[Gpu, ...]) -> int | None:
    """Return the memory of accelerators that this process needs, or None if it uses none.

    NVML tells what it holds now, the driver's own share included; torch tells the most that its allocator ever took.
    The larger counts.
    """
    held = sum(gpu.memory_bytes for gpu in gpus)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        held = max(held, sum(torch.cuda.max_memory_reserved(i) for i in range(torch.cuda.device_count())))
    return held or None
