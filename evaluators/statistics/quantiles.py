"""Statistics of latency samples and of scores: percentiles and intervals, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluators.outcome import Interval

CONFIDENCE = 0.95


def samples_needed(quantile: float, confidence: float = CONFIDENCE) -> int:
    """Return how many samples it takes before the largest exceeds the quantile with ``confidence``.

    With fewer, no order statistic bounds the quantile from above, so the percentile is not reported.
    Source: distribution-free bound, 1 - quantile**n >= confidence (as in MLPerf LoadGen's early stopping).
    """
    return math.ceil(math.log(1 - confidence) / math.log(quantile))


def percentile(samples: Sequence[float] | np.ndarray, quantile: float) -> float | None:
    """Return the sample quantile, or None if there are too few samples to support it."""
    if len(samples) < samples_needed(quantile):
        return None
    return float(np.quantile(samples, quantile, method="higher"))


def percentile_interval(
    samples: Sequence[float] | np.ndarray, quantile: float, confidence: float = CONFIDENCE
) -> Interval:
    """Return the distribution-free interval of a quantile from binomial order statistics.

    Source: Conover, Practical Nonparametric Statistics, 3rd ed., section 3.2. Where there are too few samples for an
    upper order statistic, the largest sample stands in for it.
    """
    from scipy.stats import binom

    ordered = np.sort(np.asarray(samples, dtype=float))
    n = len(ordered)
    tail = (1 - confidence) / 2
    low = int(binom.ppf(tail, n, quantile))
    high = int(binom.ppf(1 - tail, n, quantile)) + 1
    return float(ordered[max(0, low - 1)]), float(ordered[min(n - 1, high - 1)])


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """Return the Student-t interval of a mean; a single or constant sample has an interval of zero width."""
    from scipy.stats import t

    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if len(data) < 2:
        return mean, mean
    half = float(t.ppf((1 + confidence) / 2, len(data) - 1)) * float(data.std(ddof=1)) / math.sqrt(len(data))
    return mean - half, mean + half
