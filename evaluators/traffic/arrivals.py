"""Arrivals: when requests come that do not wait for each other's answers."""

from __future__ import annotations

import math

import numpy as np

SPREAD = 6.0
"""So many standard deviations more gaps are drawn than are expected to be needed."""


def poisson_arrivals(rate_per_s: float, seconds: float, seed: int = 0) -> np.ndarray:
    """Return the times of the arrivals of a Poisson process during ``seconds``, in order, shape (N,).

    Gaps are independent and exponential, as in the server scenario of MLPerf Inference (Reddi et al., MLPerf Inference
    Benchmark, ISCA 2020). The same seed gives the same arrivals, at another rate stretched or squeezed.
    """
    random = np.random.default_rng(seed)
    expected = rate_per_s * seconds
    gaps = random.exponential(1.0, math.ceil(expected + SPREAD * math.sqrt(expected) + SPREAD))
    while gaps.sum() < expected:
        gaps = np.concatenate([gaps, random.exponential(1.0, len(gaps))])
    times = np.cumsum(gaps) / rate_per_s
    return np.asarray(times[times < seconds])
