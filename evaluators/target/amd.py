"""AMD GPUs, read from the kernel: ``/sys/class/kfd`` lists what ROCm can use, without ROCm and without a process."""

from __future__ import annotations

from pathlib import Path

from evaluators.target.values import Accelerator

KFD = Path("/sys/class/kfd/kfd/topology/nodes")
_DRIVER = Path("/sys/module/amdgpu/version")
_PCI = Path("/sys/bus/pci/devices")

_NAMES = {"gfx908": "AMD Instinct MI100", "gfx90a": "AMD Instinct MI200", "gfx942": "AMD Instinct MI300",
          "gfx950": "AMD Instinct MI350"}  # fmt: skip
"""What to call a GPU whose board tells no product name."""


def read_gpus(nodes: Path = KFD, driver: Path = _DRIVER, pci: Path = _PCI) -> tuple[Accelerator, ...]:
    """Return the GPUs that ROCm can use, in its order; none where the kernel has no such driver."""
    version = _text(driver).strip()
    found = []
    for node in sorted(nodes.glob("*"), key=lambda path: int(path.name) if path.name.isdigit() else 0):
        facts = parse_properties(_text(node / "properties"))
        architecture = architecture_of(facts.get("gfx_target_version", 0))
        if architecture is None:
            continue
        banks = [parse_properties(_text(bank)) for bank in sorted(node.glob("mem_banks/*/properties"))]
        product = _text(pci / bus_address(facts) / "product_name").strip()
        found.append(
            Accelerator(
                name=product or _NAMES.get(architecture, f"AMD {architecture}"),
                architecture=architecture,
                memory_bytes=sum(bank.get("size_in_bytes", 0) for bank in banks),
                driver=version,
            )
        )
    return tuple(found)


def parse_properties(text: str) -> dict[str, int]:
    """Read lines such as ``gfx_target_version 90402``."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def architecture_of(version: int) -> str | None:
    """Return LLVM's name of an architecture, which the kernel counts as ``major * 10000 + minor * 100 + stepping``.

    ``90402`` is ``gfx942``, ``90010`` is ``gfx90a`` (the stepping is a hexadecimal digit); 0, a processor, is None.
    """
    if not version:
        return None
    major, minor, stepping = version // 10000, version // 100 % 100, version % 100
    return f"gfx{major}{minor}{stepping:x}"


def bus_address(facts: dict[str, int]) -> str:
    """Return where the GPU is on the PCI bus, ``0000:c1:00.0``, from what the kernel says of its node."""
    location = facts.get("location_id", 0)
    return f"{facts.get('domain', 0):04x}:{location >> 8 & 0xFF:02x}:{location >> 3 & 0x1F:02x}.{location & 7}"


def features_of(architecture: str) -> tuple[str, ...]:
    """Return what an AMD GPU multiplies in, and how it can be driven.

    Source: AMD's precision support tables of ROCm. fp8 of gfx942 is in AMD's own format (FNUZ).
    """
    matrix_units = (*_NAMES, "gfx1100", "gfx1101", "gfx1200", "gfx1201")
    since = {
        "int8": matrix_units, "bf16": matrix_units, "fp8": ("gfx942", "gfx950", "gfx1200", "gfx1201"),
        "sparse_2_4": ("gfx942", "gfx950"),
    }  # fmt: skip
    return ("fp16", *(feature for feature, having in since.items() if architecture in having), "graphs")


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
