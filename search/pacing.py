"""Pace: how often something may be done beside the work that matters."""

from __future__ import annotations


class Pace:
    """Lets something be done every ``every_s`` seconds at most, and for no more than a ``share`` of the time.

    The first time it is due at once.
    """

    def __init__(self, every_s: float, share: float) -> None:
        self._every_s, self._share = every_s, share
        self._due_at: float | None = None

    def due(self, now: float) -> bool:
        """Whether it may be done again."""
        return self._due_at is None or now >= self._due_at

    def took(self, begun: float, seconds: float) -> None:
        """Note that it was done, and how long that took."""
        self._due_at = begun + max(self._every_s, seconds / self._share)
