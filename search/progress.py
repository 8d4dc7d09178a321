"""What a running search tells whoever watches it."""

from __future__ import annotations

from typing import Protocol

from search.result import TrialCounts, TrialResult


class Progress(Protocol):
    """Told when a trial starts and ends, and what else a user should know."""

    def started(self, number: int, label: str) -> None:
        """Trial ``number`` runs now."""

    def finished(self, trial: TrialResult, counts: TrialCounts, best: TrialResult | None) -> None:
        """A trial ended; ``best`` is the best feasible one so far."""

    def note(self, text: str) -> None:
        """Something besides the trials happened."""


class Silent:
    """Nobody watches."""

    def started(self, number: int, label: str) -> None:
        """Ignore it."""

    def finished(self, trial: TrialResult, counts: TrialCounts, best: TrialResult | None) -> None:
        """Ignore it."""

    def note(self, text: str) -> None:
        """Ignore it."""
