"""What a runtime executes, operator by operator in our own words, and the diagnosis that follows from it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from evaluators.outcome import Diagnosis, Operators

WEIGHTED = ("convolution", "linear", "recurrent")
"""Kinds of operators that multiply activations by weights; ``linear`` is a matrix product with them."""

COMPUTING = (*WEIGHTED, "matmul", "attention")
"""Kinds of operators whose precision counts; ``matmul`` is a product of two activations."""

CONVERSIONS = ("reorder", "quantize", "dequantize")
"""Kinds of operators that change layout or precision and compute nothing."""

BITS = {"int4": 4, "int8": 8, "fp8": 8, "bf16": 16, "fp16": 16, "fp32": 32, "fp64": 64}
_PRECISIONS = {
    "int8": ("i8", "u8", "s8", "int8", "uint8", "qint8", "quint8", "signed char", "unsigned char"),
    "int4": ("i4", "u4", "int4", "uint4"),
    "fp8": ("f8e4m3", "f8e5m2", "float8_e4m3fn", "float8_e5m2", "f8_e4m3", "f8_e5m2"),
    "bf16": ("bf16", "bfloat16"),
    "fp16": ("f16", "float16", "half"),
    "fp32": ("f32", "float", "float32"),
    "fp64": ("f64", "double", "float64"),
}
_WORDS = {name: word for word, names in _PRECISIONS.items() for name in names}
_OTHERS_LISTED = 12


@dataclass(frozen=True)
class Executed:
    """One operator that a call executes.

    Attributes:
        kind: one of ``COMPUTING`` or ``CONVERSIONS``, else the runtime's own name in small letters.
        precision: one of ``BITS``, else the runtime's own name of its type.
        kernel: what the runtime calls the code that runs.
        seconds: its time in one call, null where the runtime does not tell.
    """

    kind: str
    precision: str
    kernel: str = ""
    seconds: float | None = None


def precision_of(name: str) -> str:
    """Return our word for a runtime's name of a type: ``u8``, ``c10::quint8`` and ``signed char`` are ``int8``."""
    bare = name.rpartition("::")[2].lower()
    return _WORDS.get(bare, bare)


def bits_of(scheme: str) -> int:
    """Return the bits that a quantization scheme asks for, by its name: 8 for ``static_int8``, 32 for ``fp32``."""
    digits = re.search(r"\d+$", scheme)
    return int(digits.group()) if digits else BITS["fp32"]


def weights_only(scheme: str) -> bool:
    """Whether a scheme stores weights in few bits and asks nothing of what products are computed in."""
    return scheme.startswith("weight_")


def executed_precisions(executed: Iterable[Executed]) -> list[str]:
    """Return the precisions in which something is computed, the lowest first."""
    found = {item.precision for item in executed if item.kind in COMPUTING}
    return sorted(found, key=lambda word: BITS.get(word, 0))


def summarize(
    executed: Sequence[Executed],
    scheme: str,
    *,
    call_seconds: float | None = None,
    asked: Collection[str] = WEIGHTED,
    instruction_set: str | None = None,
    notes: Iterable[str] = (),
) -> Diagnosis:
    """Return the diagnosis of what one call executes.

    ``call_seconds`` is the time of a call, of which operators have their shares; ``asked`` are the kinds that an
    integer scheme lowers (a floating-point scheme lowers whatever computes).
    """
    bits = bits_of(scheme)
    asked = () if weights_only(scheme) else asked
    wanted = COMPUTING if "int" not in scheme else asked
    fallbacks = sum(
        operator.kind in wanted and BITS.get(operator.precision, 0) > bits for operator in executed if bits < 32
    )
    computing = [operator for operator in executed if operator.kind in COMPUTING]
    low = sum(BITS.get(operator.precision, 32) <= 8 for operator in computing)
    return Diagnosis(
        operators=_listed(executed, call_seconds),
        quantized_share=round(low / len(computing), 4) if computing else None,
        fallbacks=fallbacks,
        reorders=sum(operator.kind in CONVERSIONS for operator in executed),
        instruction_set=instruction_set,
        notes=tuple(notes),
    )


def _listed(executed: Sequence[Executed], call_seconds: float | None) -> tuple[Operators, ...]:
    """Group equal operators, the costliest first; of those that neither compute nor convert, the first dozen."""
    known = sum(item.seconds or 0.0 for item in executed if item.kind != "reorder")
    whole = None if call_seconds is None else max(call_seconds, known)  # being watched costs operators time
    groups: dict[tuple[str, str, str], list[float | None]] = {}
    for operator in executed:
        groups.setdefault((operator.kind, operator.precision, operator.kernel), []).append(operator.seconds)
    listed = [
        Operators(kind=kind, precision=precision, kernel=kernel, count=len(seconds),
                  time_share=_share(seconds, whole))
        for (kind, precision, kernel), seconds in groups.items()
    ]  # fmt: skip
    listed.sort(key=lambda item: (-(item.time_share or 0.0), item.kind not in COMPUTING, -item.count, item.kind))
    others = [item for item in listed if item.kind not in (*COMPUTING, *CONVERSIONS)]
    return tuple(item for item in listed if item not in others[_OTHERS_LISTED:])


def _share(seconds: Sequence[float | None], call_seconds: float | None) -> float | None:
    known = [each for each in seconds if each is not None]
    if call_seconds is None or len(known) < len(seconds):
        return None
    return round(min(1.0, sum(known) / call_seconds), 4)
