"""Target: the class of hardware that will serve, probed from this machine."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from evaluators.frozen import Frozen, digest

_X86_FEATURES = (
    "amx_int8", "amx_bf16", "avx512_fp16", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "fma",
)  # fmt: skip
_ARM_FEATURES = {"i8mm": "i8mm", "bf16": "bf16", "asimddp": "dotprod", "asimd": "neon", "sve": "sve"}
_NAMED = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")


class Target(Frozen):
    """A class of hardware: its name is also the name of its queue.

    ``fingerprint`` covers what a latency depends on: processor model, features, cores and system.
    """

    name: str
    processor: str
    features: tuple[str, ...]
    cores: int
    memory_bytes: int
    system: str

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, stable on one machine across restarts."""
        return digest([self.name, self.processor, list(self.features), self.cores, self.system])[:16]

    def has(self, feature: str) -> bool:
        """Whether the processor has ``feature`` (``avx512_vnni``, ``bf16``, …)."""
        return feature in self.features


@cache
def probe_target() -> Target:
    """Read this machine's target; costs milliseconds and starts no process."""
    import psutil

    processor, flags = _processor()
    arm = platform.machine().lower() in ("arm64", "aarch64")
    if arm:
        features = tuple(name for flag, name in _ARM_FEATURES.items() if flag in flags)
        name = "cpu-arm64"
    else:
        features = tuple(flag for flag in _X86_FEATURES if flag in flags)
        name = "cpu-" + next((flag for flag in _NAMED if flag in flags), platform.machine().lower() or "unknown")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return Target(
        name=name, processor=processor, features=features, cores=cores,
        memory_bytes=psutil.virtual_memory().total, system=f"{platform.system()} {platform.machine()}",
    )  # fmt: skip


def versions(*distributions: str) -> dict[str, str]:
    """Return the installed version of each distribution; those that are not installed are left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment(*distributions: str) -> dict[str, str]:
    """Return the versions that a result depends on: Python, torch and ``distributions``."""
    return {"python": platform.python_version(), **versions("paretune", "torch", "numpy", *distributions)}


def _processor() -> tuple[str, frozenset[str]]:
    if sys.platform == "darwin":
        return platform.processor() or "Apple", frozenset({"asimd"})
    model, flags = platform.processor() or platform.machine(), frozenset[str]()
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            model = value.strip()
        elif key.strip() in ("flags", "Features"):
            return model, frozenset(value.split())
    return model, flags
