"""ExecuTorch programs: a flatbuffer, and after it the data that it names by position."""

from __future__ import annotations

import os
from pathlib import Path

from evaluators.bundle.tree import open_file
from evaluators.errors import IntegrityError

_HEAD_BYTES = 40
_MAGIC, _LEAST_HEADER_BYTES = b"eh00", 24
"""The header behind the flatbuffer's first bytes; its last field came later, and its length tells whether it is there.

Source: executorch's schema/extended_header.h.
"""


def check_executorch(folder: Path, name: str) -> None:
    """See that the file is a program and that its sizes lie within it. The runtime verifies the flatbuffer itself.

    Raises:
        IntegrityError: it is none.
    """
    with open_file(folder, name) as file:
        head = file.read(_HEAD_BYTES)
        total = os.fstat(file.fileno()).st_size
    if len(head) < 8 or head[4:6] != b"ET" or int.from_bytes(head[:4], "little") >= total:
        raise IntegrityError(f"{name} is no ExecuTorch program: it begins with {head[:8]!r}")
    if head[8:12] == _MAGIC:
        _check_sizes(head, total, name)


def _check_sizes(head: bytes, total: int, name: str) -> None:
    length = int.from_bytes(head[12:16], "little")
    if len(head) < _HEAD_BYTES or length < _LEAST_HEADER_BYTES:
        raise IntegrityError(f"{name} is no ExecuTorch program: its header has {length} bytes, and the file {total}")
    program, segments, data = (int.from_bytes(head[at : at + 8], "little") for at in (16, 24, 32))
    if program > total:
        raise IntegrityError(f"{name} says that its program ends at {program} of {total} bytes")
    end = segments + (data if length > _LEAST_HEADER_BYTES else 0)
    if end > total:
        raise IntegrityError(f"{name} says that its data end at {end} of {total} bytes")
