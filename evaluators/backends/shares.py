"""Shares: a batch that several threads compute at a time, each an equal part of it as a request of its own."""

from __future__ import annotations


def splits(batch_size: int, threads: int) -> bool:
    """Whether a batch can be given to so many threads as requests of the same size."""
    return threads > 1 and batch_size % threads == 0
