"""Safetensors: a header of JSON, then the tensors, each byte in exactly one of them."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any

from evaluators.bundle.manifest import plain_json
from evaluators.bundle.tree import open_file
from evaluators.errors import IntegrityError

MOST_HEADER_BYTES = 16 * 2**20
_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "C64": 8, "F64": 8, "I64": 8, "U64": 8,
}  # fmt: skip


def check_safetensors(folder: Path, name: str) -> None:
    """Read the header and see that it describes the file: types, shapes, no gap, no overlap, nothing beyond the end.

    Raises:
        IntegrityError: it does not.
    """
    with open_file(folder, name) as file:
        total = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if total < 8 or length > min(MOST_HEADER_BYTES, total - 8):
            raise IntegrityError(f"{name} says that its header has {length} bytes, and the file has {total}")
        header = plain_json(file.read(length), MOST_HEADER_BYTES, f"the header of {name}")
    if not isinstance(header, dict):
        raise IntegrityError(f"the header of {name} is no object")
    _refuse_notes(header.pop("__metadata__", {}), name)
    end = 0
    for tensor, (first, last) in sorted(
        ((tensor, _span(facts, tensor, name)) for tensor, facts in header.items()), key=lambda item: item[1]
    ):
        if first != end:
            raise IntegrityError(f"{name}: tensor {tensor[:100]!r} begins at {first} and the one before ends at {end}")
        end = last
    if end != total - 8 - length:
        raise IntegrityError(f"{name}: its tensors end at {end}, and the file holds {total - 8 - length} bytes of them")


def _span(facts: Any, tensor: str, name: str) -> tuple[int, int]:
    if not isinstance(facts, dict) or facts.keys() != {"dtype", "shape", "data_offsets"}:
        raise IntegrityError(f"{name}: tensor {tensor[:100]!r} needs dtype, shape and data_offsets and nothing else")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise IntegrityError(f"{name}: tensor {tensor[:100]!r} is of type {str(dtype)[:50]!r}, which nobody knows")
    if not _counts(shape) or len(shape) > 32 or not _counts(offsets) or len(offsets) != 2:
        raise IntegrityError(f"{name}: tensor {tensor[:100]!r} has a shape or offsets that are no counts")
    first, last = offsets
    if last - first != prod(shape) * _BYTES[dtype]:
        raise IntegrityError(f"{name}: tensor {tensor[:100]!r} has {last - first} bytes, which its shape does not fill")
    return first, last


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**60 for item in value)


def _refuse_notes(notes: Any, name: str) -> None:
    if not isinstance(notes, dict) or not all(isinstance(value, str) for value in notes.values()):
        raise IntegrityError(f"{name}: its metadata must be texts by name")
