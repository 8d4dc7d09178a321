"""StageClock: times the stages of a trial and tells the supervisor which one is running."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from evaluators.cache import Entry


class StageClock:
    """Seconds by stage, which stages were answered from the cache, and which stage runs now.

    ``training`` is what the stages that train took when their result was made, also where it was in the cache.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self.seconds: dict[str, float] = {}
        self.cached: list[str] = []
        self.training: dict[str, float] = {}
        self.current = "start"

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block as stage ``name``."""
        self.current = name
        self._report(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def noted(self, entry: Entry, stage: str) -> Entry:
        """Return ``entry`` after noting that ``stage`` was answered from the cache, where it was."""
        if entry.hit:
            self.cached.append(stage)
        return entry

    def priced(self, entry: Entry, stage: str) -> Entry:
        """Return ``entry`` after noting it, and what the training of ``stage`` took when it was made."""
        if entry.seconds is not None:
            self.training[stage] = entry.seconds
        return self.noted(entry, stage)
