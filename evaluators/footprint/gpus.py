"""The GPUs that a process uses: what it holds of their memory, and their energy counters."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

LEAST_BYTES = 32 * 2**20
"""A process that computes on a GPU holds more than this there, however small its model: CUDA's context alone does."""

NOTHING: Mapping[int, int] = MappingProxyType({})


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


def bytes_in_use(nvml: Any) -> dict[int, int]:
    """Return the memory in use on every GPU, by whatever process; a GPU that does not tell is left out."""
    found = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            found[index] = int(nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(index)).used)
        except nvml.NVMLError:
            continue
    return found


def gpus_of(pid: int, nvml: Any, before: Mapping[int, int] = NOTHING) -> tuple[Gpu, ...]:
    """Return the GPUs on which NVML lists process ``pid``, with what it holds there, whatever library took it.

    In a container with process ids of its own NVML lists none, and some drivers list processes without their memory.
    Where it tells no memory of this process on any GPU, what is in use beyond ``before`` (from ``bytes_in_use``, before
    the process took any) is this process's: devices are measured by one at a time. Without ``before`` nothing is.
    """
    listed: dict[int, list[int | None]] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            running = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(index))
        except nvml.NVMLError:
            continue
        if mine := [process.usedGpuMemory for process in running if process.pid == pid]:
            listed[index] = mine
    held = {index: sum(used or 0 for used in mine) for index, mine in listed.items()}
    if before and not any(held.values()):
        now = bytes_in_use(nvml)
        grown = {index: now[index] - used for index, used in before.items() if index in now}
        held |= {index: more for index, more in grown.items() if more >= LEAST_BYTES and (not held or index in held)}
    return tuple(_gpu(index, used, nvml) for index, used in sorted(held.items()))


def _gpu(index: int, used: int, nvml: Any) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(f"gpu-{index} {nvml.nvmlDeviceGetName(handle)}", used, handle, nvml)


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

    NVML tells what it holds now, the driver's own share included: of every runtime, and the most of those that keep
    what they once took, as onnxruntime and TensorRT do. torch tells the most that its allocator ever took. The larger
    counts.
    """
    held = sum(gpu.memory_bytes for gpu in gpus)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        held = max(held, sum(torch.cuda.max_memory_reserved(i) for i in range(torch.cuda.device_count())))
    return held or None
