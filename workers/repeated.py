"""Repeated: does something again and again, in a thread, while its block runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from evaluators.errors import InfrastructureError


class Repeated:
    """Calls ``act`` every ``seconds`` while its block runs, until it returns False.

    Where the ledger cannot be reached it is tried again the next time.
    """

    def __init__(self, act: Callable[[], bool], seconds: float, name: str) -> None:
        self._act, self._seconds = act, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name=name, daemon=True)

    def __enter__(self) -> Self:
        """Begin; the first call comes after ``seconds``."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _repeat(self) -> None:
        while not self._over.wait(self._seconds):
            try:
                if not self._act():
                    return
            except InfrastructureError:
                continue
