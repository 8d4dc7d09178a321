"""Intervals of latency that was measured in blocks of consecutive calls."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from evaluators.outcome import Interval
from evaluators.statistics.dependence import DRIFT_WAVES, Blocks, dependence, prudent_calls, smooth_drift
from evaluators.statistics.quantiles import CONFIDENCE
from evaluators.statistics.rounds import compare_rounds

PAIRED_DRIFT_SHARE = 0.5
"""A drift that a model's blocks show less clearly than this shifts a ratio by less than a fifth of its error."""

PAIRS_PER_WAVE = 5
"""A curve with more freedom would follow the noise of the pairs and make them look steadier than they are."""

BATCHES = 8
"""Batches of consecutive calls that stand in for independent calls where those depend on each other."""


def block_interval(
    blocks: Blocks, quantile: float, confidence: float = CONFIDENCE, *, one_sided: bool = False
) -> Interval:
    """Return the interval of a quantile of the latency over a measurement, from its blocks in order of time.

    Two order statistics bound it, as for independent calls (Woodruff, Confidence intervals for medians and other
    position measures, Journal of the American Statistical Association 47, 1952), of as many independent calls as the
    trace is worth (``dependence``): slow spells, regimes and spikes in clusters widen it. A smooth drift of the whole
    trace does not: its quantile is that of all its calls together.

    Where there are too few calls for an upper order statistic, the largest stands in, and the interval ends too low.
    A one-sided bound comes from batches of consecutive calls then (``batch_bound``), if there are enough for those; it
    may lie above every call.

    Args:
        blocks: consecutive calls of each block, in any unit; shapes (N,), unequal lengths allowed.
        quantile: between 0 and 1.
        confidence: above 0.5.
        one_sided: return two one-sided bounds, each at ``confidence``, for verdicts: order statistics are rounded
            outward and a trace never counts for more calls than it has.

    Raises:
        ValueError: without a call.
    """
    blocks = [np.asarray(block, dtype=float) for block in blocks if len(block)]
    if not blocks:
        raise ValueError("no calls to draw an interval from: time at least one block")
    samples = np.sort(np.concatenate(blocks))
    tail = 1 - confidence if one_sided else (1 - confidence) / 2
    if one_sided:
        worth = prudent_calls(blocks, quantile, tail)
    else:
        worth = dependence(blocks, quantile).effective_calls(len(samples), tail)
    low, high = (_rank(share, quantile, max(worth, 1.0), len(samples)) for share in (tail, 1 - tail))
    if one_sided:
        low, high = math.floor(low), math.ceil(high)
    places = np.arange(1, len(samples) + 1)
    lower, upper = float(np.interp(low, places, samples)), float(np.interp(high, places, samples))
    if one_sided and quantile ** max(worth, 1.0) > tail and _enough_for_batches(len(samples), quantile):
        upper = max(lower, batch_bound(blocks, quantile, confidence))
    return lower, upper


def supports_upper_bound(blocks: Blocks, quantile: float, confidence: float = CONFIDENCE) -> bool:
    """Return whether the one-sided upper bound of ``block_interval`` is one, and not the largest call standing in."""
    trace = [block for block in blocks if len(block)]
    if not trace:
        return False
    if quantile ** prudent_calls(trace, quantile, 1 - confidence) <= 1 - confidence:
        return True
    return _enough_for_batches(sum(len(block) for block in trace), quantile)


def _enough_for_batches(calls: int, quantile: float) -> bool:
    return calls >= BATCHES / (1 - quantile)


def batch_bound(blocks: Blocks, quantile: float, confidence: float) -> float:
    """Return the upper bound of a quantile whose uncertainty is that of batches: Student-t on their logarithms.

    It lies above the quantile of all calls together: under a drift, the mean of the batches' quantiles is below it.
    Blocks that are as few as the batches, such as the rounds of a comparison, are the batches. Source: nonoverlapping
    batches for quantiles of dependent output, Seila, A batching approach to quantile estimation in regenerative
    simulations, Management Science 28 (1982).
    """
    from scipy.stats import t

    every = np.concatenate(blocks)
    batches = blocks if 1 < len(blocks) <= BATCHES else np.array_split(every, BATCHES)
    logs = np.log([float(np.quantile(batch, quantile)) for batch in batches])
    spread = float(logs.std(ddof=1)) / np.sqrt(len(logs))
    return float(np.quantile(every, quantile) * np.exp(t.ppf(confidence, len(logs) - 1) * spread))


def _rank(share: float, quantile: float, worth: float, calls: int) -> float:
    """Return the rank, from 1, of the call that exceeds the quantile with a probability of ``share``.

    It is that of the binomial distribution of ``worth`` independent calls, between two ranks where it falls so. Where
    not even the least or the largest of so few calls would do, it is that of the least or the largest of all.
    """
    from scipy.special import bdtrik

    if share < (1 - quantile) ** worth:
        return 1.0
    if share > 1 - quantile**worth:
        return float(calls)
    return float(bdtrik(share, worth, quantile) + 1) * (calls + 1) / (worth + 1)


def ratio_interval(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]], confidence: float = CONFIDENCE
) -> tuple[float, Interval]:
    """Return how many times faster a candidate is than a reference, and the two-sided interval of that.

    Each pair of adjacent blocks gives one ratio of medians, so that what slows both down cancels; ``compare_rounds``
    then weighs the pairs, so that a few wild ones move it little. Where latencies drift clearly, the reference is
    always timed a little later than the candidate: how far the drift went meanwhile is taken out.

    Args:
        pairs: blocks of the candidate and of the reference that followed each, in order of time, in one unit.

    Raises:
        ValueError: without a pair.
    """
    if not pairs:
        raise ValueError("no pairs to compare: time the reference after a block of the candidate")
    levels = np.log([[float(np.median(block)) for block in pair] for pair in pairs])
    times = (np.arange(levels.size) + 0.5).reshape(levels.shape) / levels.size
    waves = min(DRIFT_WAVES, len(pairs) // PAIRS_PER_WAVE)
    drift = smooth_drift(times.ravel(), (levels - np.median(levels, axis=0)).ravel(), PAIRED_DRIFT_SHARE, waves)
    if drift is not None:
        levels = levels - drift(times.ravel()).reshape(levels.shape)
    return compare_rounds(levels[:, 1] - levels[:, 0], confidence)
