"""The queue that the instances of a server share: a number in a file, and a lock that ends with whoever holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

_BYTES = 8


class SharedHead:
    """The first request that no instance has taken yet; every process opens the file for itself."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def reset(self) -> None:
        """Begin again with the first request."""
        self.advance(lambda _: 0)

    def advance(self, choose: Callable[[int], int]) -> None:
        """Replace the head by what ``choose`` makes of it, while nobody else can."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            head = int.from_bytes(os.pread(self._file, _BYTES, 0), "little")
            os.pwrite(self._file, choose(head).to_bytes(_BYTES, "little"), 0)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)
