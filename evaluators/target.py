"""Target: the class of hardware that will serve, probed from this machine."""

from __future__ import annotations

import os
import platform
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

from evaluators.errors import UsageError
from evaluators.frozen import Frozen, digest

_X86_FEATURES = (
    "amx_int8", "amx_bf16", "avx512_fp16", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "fma",
)  # fmt: skip
_ARM_FEATURES = {"i8mm": "i8mm", "bf16": "bf16", "asimddp": "dotprod", "asimd": "neon", "sve": "sve"}
_NAMED = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")

DEVICES = {"cpu": "cpu", "cuda": "cuda", "rocm": "cuda", "apple": "mps"}
"""What torch calls the device of a target, by the first word of the target's name."""


def device_of(target: str) -> str:
    """Return torch's word for the device of a target: ``cpu``, ``cuda`` (of AMD's too) or ``mps``.

    Raises:
        UsageError: no target has such a name.
    """
    family = target.partition("-")[0]
    if family not in DEVICES:
        raise UsageError(f"{target!r} is no target; names begin with {', '.join(f'{name}-' for name in DEVICES)}")
    return DEVICES[family]


class Accelerator(Frozen):
    """A device beside the processor: its name, architecture (``sm90``, ``gfx942``, ``m2``), memory and driver."""

    name: str
    architecture: str
    memory_bytes: int
    driver: str = ""


class Target(Frozen):
    """A class of hardware: its name is also the name of its queue.

    ``features`` are those of what computes: the processor's, or the accelerator's where there is one.
    ``fingerprint`` covers what a latency depends on: processor model, features, cores, system and accelerator.
    """

    name: str
    processor: str
    features: tuple[str, ...]
    cores: int
    memory_bytes: int
    system: str
    accelerator: Accelerator | None = None

    @property
    def device(self) -> str:
        """What torch calls the device: ``cpu``, ``cuda`` or ``mps``."""
        return device_of(self.name)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, stable on one machine across restarts."""
        facts = [self.name, self.processor, list(self.features), self.cores, self.system]
        return digest([*facts, self.accelerator.to_json()] if self.accelerator else facts)[:16]

    def has(self, feature: str) -> bool:
        """Whether the processor has ``feature`` (``avx512_vnni``, ``bf16``, …)."""
        return feature in self.features


def probe_target(name: str | None = None) -> Target:
    """Return this machine's target of that name; the first of ``probe_targets`` where none is named.

    Raises:
        UsageError: this machine has no such target.
    """
    offered = probe_targets()
    for target in offered:
        if name in (None, target.name):
            return target
    raise UsageError(f"this machine has no target {name!r}; it has {', '.join(target.name for target in offered)}")


@cache
def probe_targets() -> tuple[Target, ...]:
    """Read the targets that this machine offers, its processor among them."""
    return (_probe_processor(),)


def _probe_processor() -> Target:
    """Read the processor as a target; costs milliseconds and starts no process."""
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
