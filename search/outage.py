"""Outage: notices when something that failed can be tried again, so that nobody who works waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

PAUSES_S = (1.0, 2.0, 5.0, 10.0, 20.0, 40.0, 60.0)
"""How long it is left alone before it is asked the first time, the second time, …"""


class Outage:
    """Asks in a thread of its own, with longer and longer pauses, whether something answers again.

    An answer is not yet a success: where what was tried then fails again, the pauses go on growing.

    Args:
        answers: asks; it may take seconds, and is called from the thread at any time until ``close``.

    Attributes:
        lasts: whether it should not be tried now.
        happened: whether it has ever failed.
    """

    def __init__(self, answers: Callable[[], bool], pauses_s: Sequence[float] = PAUSES_S) -> None:
        self._answers, self._pauses_s = answers, pauses_s
        self._failures = 0
        self._closed = threading.Event()
        self.lasts = self.happened = False

    def begin(self) -> None:
        """Say that it has failed."""
        self.happened = True
        if not self.lasts and not self._closed.is_set():
            self.lasts = True
            threading.Thread(target=self._ask, name="paretune-outage", daemon=True).start()

    def end(self) -> bool:
        """Say that it has worked, and return whether it had failed before that."""
        ended, self._failures = self._failures > 0, 0
        return ended

    def ask_now(self) -> None:
        """Ask in this thread too, where it should not be tried: an answer counts at once."""
        if self.lasts and self._answers():
            self.lasts = False

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _ask(self) -> None:
        while self.lasts and not self._closed.wait(self._pause()):
            if self._answers():
                self.lasts = False

    def _pause(self) -> float:
        self._failures += 1
        return self._pauses_s[min(self._failures, len(self._pauses_s)) - 1]
