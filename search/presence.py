"""Presence: which workers are there, read once for all searches that one process coordinates."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from workers.lease import owner_is_alive
from workers.ledger import Ledger


@dataclass(frozen=True)
class Present:
    """A worker that is there: its target, and the fingerprint of its machine."""

    id: str
    target: str
    fingerprint: str


class Presence:
    """Knows who is there. What a worker told of its machine is read once; that it is there, as often as asked.

    Args:
        ledger: where workers register.
        clock: this machine's steady clock.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self._ledger, self._clock = ledger, clock
        self._lock = threading.Lock()
        self._told: dict[tuple[str, float], Present] = {}
        self._there: tuple[Present, ...] = ()
        self._read_at = float("-inf")

    def workers(self, max_age_s: float = 0.0) -> tuple[Present, ...]:
        """Return the workers that are there, as they were no longer than ``max_age_s`` ago."""
        with self._lock:
            if self._clock() - self._read_at >= max_age_s:
                self._there = self._read()
                self._read_at = self._clock()
            return self._there

    def _read(self) -> tuple[Present, ...]:
        heard = self._ledger.heard_of()
        if unknown := [key for key in heard if key not in self._told]:
            for worker in self._ledger.workers([name for name, _ in unknown]):
                told = Present(worker.id, worker.target, worker.capabilities.target.fingerprint)
                self._told[worker.id, worker.started_at] = told
        self._told = {key: self._told[key] for key in heard if key in self._told}
        return tuple(worker for worker in self._told.values() if owner_is_alive(worker.id))
