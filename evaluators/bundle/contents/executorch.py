"""ExecuTorch programs: a flatbuffer, and after it the data that it names by position."""

from __future__ import annotations

import os
from pathlib import Path

from evaluators.bundle.tree import open_file
from evaluators.errors import IntegrityError


def check_executorch(folder: Path, name: str) -> None:
    """See that the file is a program and that its sizes lie within it. The runtime verifies the flatbuffer itself.

    Raises:
        IntegrityError: it is none.
    """
    with open_file(folder, name) as file:
        head = file.read(32)
        total = os.fstat(file.fileno()).st_size
    if len(head) < 8 or head[4:6] != b"ET" or int.from_bytes(head[:4], "little") >= total:
        raise IntegrityError(f"{name} is no ExecuTorch program: it begins with {head[:8]!r}")
    if head[8:12] == b"eh00" and len(head) == 32:
        program, segments = int.from_bytes(head[16:24], "little"), int.from_bytes(head[24:32], "little")
        if program > total or segments > total:
            raise IntegrityError(f"{name} says that its program ends at {program} of {total} bytes")
