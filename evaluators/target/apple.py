"""Apple's chips: GPU and Neural Engine beside the processor, one memory for all of them."""

from __future__ import annotations

import platform
import re
import sys

from evaluators.target.processor import read_sysctl
from evaluators.target.values import Accelerator

_CHIP = re.compile(r"^Apple (M(\d+))( Pro| Max| Ultra)?$")


def read_chip(memory_bytes: int) -> Accelerator | None:
    """Return this Mac's chip; None on anything else."""
    if sys.platform != "darwin" or platform.machine() != "arm64":
        return None
    return parse_chip(read_sysctl("machdep.cpu.brand_string"), memory_bytes, platform.mac_ver()[0])


def parse_chip(sysctl: str, memory_bytes: int, system: str) -> Accelerator | None:
    """Read ``sysctl machdep.cpu.brand_string``; ``system`` is the version of macOS, which brings the driver.

    ``Apple M2 Pro`` is of the architecture ``m2``: its size is told by name and memory.
    """
    brand = sysctl.partition(":")[2].strip() or sysctl.strip()
    found = _CHIP.match(brand)
    if found is None:
        return None
    return Accelerator(
        name=brand, architecture=found[1].lower(), memory_bytes=memory_bytes, driver=f"macOS {system}" if system else ""
    )


def features_of(architecture: str) -> tuple[str, ...]:
    """Return what a chip (``m2``) multiplies in, and that it has a Neural Engine; bf16 came with the second one."""
    generation = int(architecture.removeprefix("m"))
    return ("fp16", *(("bf16",) if generation >= 2 else ()), "neural_engine")
