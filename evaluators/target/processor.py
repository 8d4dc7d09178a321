"""The processor: its model, instruction sets, and the cores and memory that this process may use."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

from evaluators.frozen import Frozen
from evaluators.target.values import Target

X86_FEATURES = (
    "amx_int8", "amx_bf16", "avx512_fp16", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "fma",
)  # fmt: skip
ARM_FEATURES = {"i8mm": "i8mm", "bf16": "bf16", "asimddp": "dotprod", "asimd": "neon", "sve": "sve"}
"""The kernel's word for each instruction set of Arm, and ours."""

_APPLE_FEATURES = {"FEAT_I8MM": "i8mm", "FEAT_BF16": "bf16", "FEAT_DotProd": "dotprod", "AdvSIMD": "neon"}
_NAMED = ("amx_int8", "avx512_vnni", "avx_vnni", "avx512f", "avx2")
_ARM_CORES = {"0xd0c": "Neoverse-N1", "0xd40": "Neoverse-V1", "0xd49": "Neoverse-N2", "0xd4f": "Neoverse-V2",
              "0xd84": "Neoverse-V3", "0xd8e": "Neoverse-N3", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76"}  # fmt: skip
_SYSCTL_SECONDS = 5.0


class Processor(Frozen):
    """What ``/proc/cpuinfo`` or ``sysctl`` says: the model, and the instruction sets that matter here."""

    model: str
    features: tuple[str, ...]

    @property
    def is_arm(self) -> bool:
        """Whether it is an Arm processor."""
        return "neon" in self.features


def parse_cpuinfo(text: str) -> Processor:
    """Read the first processor of Linux's ``/proc/cpuinfo``; Arm's has no model name, but numbers of who made it."""
    facts: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip(), value.strip())
        elif facts:
            break
    if "Features" in facts:
        flags = set(facts["Features"].split())
        part = facts.get("CPU part", "")
        unnamed = f"Arm {facts.get('CPU implementer', '')} {part}".strip()
        model = facts.get("model name") or _ARM_CORES.get(part) or unnamed
        return Processor(model=model, features=tuple(name for flag, name in ARM_FEATURES.items() if flag in flags))
    flags = set(facts.get("flags", "").split())
    return Processor(model=facts.get("model name", ""), features=tuple(flag for flag in X86_FEATURES if flag in flags))


def parse_sysctl(text: str) -> Processor:
    """Read macOS's ``sysctl machdep.cpu hw.optional``: Arm tells features as flags, Intel as words."""
    facts = dict(line.partition(": ")[::2] for line in text.splitlines() if ": " in line)
    model = facts.get("machdep.cpu.brand_string", "")
    arm = [name for flag, name in _APPLE_FEATURES.items() if facts.get(f"hw.optional.arm.{flag}") == "1"]
    if arm or model.startswith("Apple"):
        return Processor(model=model, features=tuple(dict.fromkeys([*arm, "neon"])))
    words = f"{facts.get('machdep.cpu.features', '')} {facts.get('machdep.cpu.leaf7_features', '')}".lower().split()
    return Processor(model=model, features=tuple(flag for flag in X86_FEATURES if flag in words))


def processor_name(processor: Processor, machine: str) -> str:
    """Name the target of a processor by the best instruction set for int8 that it has: ``cpu-avx512_vnni``."""
    if processor.is_arm or machine.lower() in ("arm64", "aarch64"):
        return "cpu-arm64"
    return "cpu-" + next((flag for flag in _NAMED if flag in processor.features), machine.lower() or "unknown")


def usable_cores(affinity: int, quota: str) -> int:
    """Return the cores that may be used at a time: ``quota`` is a container's, ``cpu.max`` of Linux's cgroups."""
    allowed, _, period = quota.strip().partition(" ")
    if not allowed.isdigit() or not period.isdigit():
        return affinity
    return max(1, min(affinity, math.ceil(int(allowed) / int(period))))


def usable_memory(total: int, limit: str) -> int:
    """Return the bytes that may be used: ``limit`` is a container's, ``memory.max`` of Linux's cgroups."""
    return min(total, int(limit)) if limit.strip().isdigit() else total


def read_processor() -> Target:
    """Read the processor of this machine as a target; on Linux it costs milliseconds and starts no process."""
    import psutil

    found = _read()
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return Target(
        name=processor_name(found, platform.machine()),
        processor=found.model or platform.processor() or platform.machine(),
        features=found.features,
        cores=usable_cores(affinity, _cgroup("cpu.max")),
        memory_bytes=usable_memory(psutil.virtual_memory().total, _cgroup("memory.max")),
        system=f"{platform.system()} {platform.machine()}",
    )


def read_sysctl(*names: str) -> str:
    """Return what macOS's ``sysctl`` says of these names; nothing where it cannot be asked."""
    try:
        done = subprocess.run(  # noqa: S603
            ["/usr/sbin/sysctl", *names], capture_output=True, text=True, timeout=_SYSCTL_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def _read() -> Processor:
    if sys.platform == "darwin":
        return parse_sysctl(read_sysctl("machdep.cpu", "hw.optional"))
    cpuinfo = Path("/proc/cpuinfo")
    return parse_cpuinfo(cpuinfo.read_text()) if cpuinfo.exists() else Processor(model="", features=())


def _cgroup(name: str) -> str:
    """Read a limit of this process's container, whose own group is the root of what it sees."""
    file = Path("/sys/fs/cgroup") / name
    try:
        return file.read_text()
    except OSError:
        return ""
