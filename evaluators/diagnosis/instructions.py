"""Which instructions kernels use: read from their names where these tell, else the most that the processor offers."""

from __future__ import annotations

from collections.abc import Iterable

from evaluators.target import Target

_WIDEST_FIRST = {
    "amx": "amx", "avx10": "avx10", "avx512_core_fp16": "avx512_fp16", "avx512_core_bf16": "avx512_bf16",
    "avx512_core_vnni": "avx512_vnni", "avx512_vnni": "avx512_vnni", "avx512": "avx512", "avx2_vnni": "avx_vnni",
    "avx2": "avx2", "sse4": "sse4", "sve": "sve", "acl": "neon", "asimd": "neon", "neon": "neon",
}  # fmt: skip
"""Parts of the names that oneDNN, OpenVINO and Arm's Compute Library give their kernels, and our word for each."""

_OFFERED = {
    "int8": ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "dotprod"),
    "bf16": ("amx_bf16", "avx512_bf16", "bf16"),
}
_ANY_PRECISION = {"avx512f": "avx512", "avx2": "avx2", "sve": "sve", "neon": "neon"}


def named_instructions(kernels: Iterable[str]) -> str | None:
    """Return the widest instructions that the names of kernels speak of, or None: ``brgconv:avx512_core_vnni``."""
    names = [name.lower() for name in kernels]
    return next((word for part, word in _WIDEST_FIRST.items() if any(part in name for name in names)), None)


def offered_instructions(target: Target, precisions: Iterable[str]) -> str | None:
    """Return the best instructions that the processor has for these precisions, or None if it is not known."""
    for precision in precisions:
        for feature in _OFFERED.get(precision, ()):
            if target.has(feature):
                return feature
    return next((word for feature, word in _ANY_PRECISION.items() if target.has(feature)), None)
