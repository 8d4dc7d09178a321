"""Meters: what the parts of a fleet count as they work. Who counts need not know for whom, or whether anybody asks."""

from __future__ import annotations

from typing import Protocol

from evaluators.outcome import Outcome


class Meter(Protocol):
    """Is told of everything that is worth counting."""

    def ended(self, target: str, outcome: Outcome) -> None:
        """A trial has ended, and how."""

    def lost(self, target: str, count: int = 1) -> None:
        """So many leases were lost: whoever held one died, was silent, or was too late."""

    def rung_again(self, target: str) -> None:
        """A trial that waited in vain was rung for again."""

    def busy(self, target: str, device: str, is_busy: bool) -> None:
        """A device has begun or ended a trial."""


class NoMeter:
    """Counts nothing."""

    def ended(self, target: str, outcome: Outcome) -> None:
        """Ignore it."""

    def lost(self, target: str, count: int = 1) -> None:
        """Ignore it."""

    def rung_again(self, target: str) -> None:
        """Ignore it."""

    def busy(self, target: str, device: str, is_busy: bool) -> None:
        """Ignore it."""
