"""Comparison of two bundles over rounds: how many times faster one is, robust to rounds that went wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluators.outcome import Interval
from evaluators.statistics.quantiles import CONFIDENCE, mean_interval

EXACT_UP_TO = 60
"""Values up to which the null distribution of the signed-rank statistic is counted, not approximated."""


def compare_rounds(log_ratios: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, Interval]:
    """Return a ratio and its two-sided interval from one log-ratio per round; both are ratios, not logarithms.

    The estimate is that of Hodges and Lehmann, the median of all Walsh averages (means of two rounds, each round with
    itself included); the interval runs between two Walsh averages whose ranks come from the exact distribution of the
    Wilcoxon signed-rank statistic, so that it holds for any symmetric noise and one wild round moves it little.
    Source: Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3rd ed., sections 3.2 and 3.3.

    Too few rounds for any rank (fewer than 6 at 95 %) get the Student-t interval; a single one says nothing: its
    interval is (0, inf).

    Raises:
        ValueError: without a round.
    """
    rounds = np.asarray(log_ratios, dtype=float)
    if not rounds.size:
        raise ValueError("no rounds to compare: time both bundles at least once")
    first, second = np.triu_indices(rounds.size)
    walsh = np.sort((rounds[first] + rounds[second]) / 2)
    estimate = float(np.median(walsh))
    rank = signed_rank(rounds.size, confidence)
    if rank > 0:
        low, high = float(walsh[rank - 1]), float(walsh[-rank])
    elif rounds.size > 1:
        low, high = mean_interval(rounds, confidence)
        low, high = min(low, estimate), max(high, estimate)
    else:
        low, high = -math.inf, math.inf
    return math.exp(estimate), (math.exp(low), math.exp(high))


def signed_rank(rounds: int, confidence: float = CONFIDENCE) -> int:
    """Return which Walsh average, counted from either end and from 1, bounds the interval; 0 where none does.

    It is the largest rank r with P(W < r) <= (1 - confidence) / 2 for the signed-rank statistic W of that many rounds.
    """
    from scipy.stats import norm

    tail = (1 - confidence) / 2
    if rounds > EXACT_UP_TO:
        mean = rounds * (rounds + 1) / 4
        spread = math.sqrt(rounds * (rounds + 1) * (2 * rounds + 1) / 24)
        return max(0, int(mean + float(norm.ppf(tail)) * spread))
    ways = np.ones(1)
    for rank in range(1, rounds + 1):
        ways = np.concatenate([ways, np.zeros(rank)]) + np.concatenate([np.zeros(rank), ways])
    return int(np.searchsorted(np.cumsum(ways) / 2.0**rounds, tail, side="right"))


def different(interval: Interval, margin: float = 0.01) -> bool:
    """Say whether a ratio is surely another than 1: its whole interval lies outside 1 ± ``margin``."""
    low, high = interval
    return low > 1 + margin or high < 1 - margin
