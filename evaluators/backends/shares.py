"""Shares: a batch that several threads compute at a time, each an equal part of it as a request of its own."""

from __future__ import annotations

from evaluators.candidate import Candidate
from evaluators.parameters import Choice

SPLIT_BATCH = Choice(
    "split_batch", (False, True), False, "each thread computes its share of the batch, instead of all of them the whole"
)


def splits(batch_size: int, threads: int) -> bool:
    """Whether a batch can be given to so many threads as requests of the same size."""
    return threads > 1 and batch_size % threads == 0


def shares_of(candidate: Candidate) -> int:
    """Return how many equal shares of a batch are computed at a time, each by a thread of its own."""
    return candidate.runtime.threads if candidate.runtime.knobs.get(SPLIT_BATCH.name) is True else 1
