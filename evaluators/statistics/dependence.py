"""How many independent calls a trace is worth: calls that follow each other resemble each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Blocks = Sequence[np.ndarray]

MOST_WAVES, LEAST_WAVES = 24, 4
"""How many cosines: more say more of calls that do not depend on each other, fewer see longer spells."""
WAVES_BIAS = 0.1
"""Share of the long-run variance that the cosines may miss because their frequency is not zero."""
GROUPS = 512
"""Calls are summed in so many groups before the cosines: far finer than the quickest of them."""
PERSISTENCE_GROUPS = 64
MOST_PERSISTENCE = 0.95
LEAST_CALLS = 16
LEAST_ABOVE = 5
"""Calls above the level at which clustering is judged; fewer would show nothing."""
LEAST_DRIFT_BLOCKS = 8
DRIFT_WAVES = 6
DRIFT_SHARE = 0.9
"""Share of the variance of the blocks' medians that a smooth curve explains before it is taken for a drift."""


class Dependence(NamedTuple):
    """Variance of a sample quantile's rank over that of independent calls, and the degrees of freedom behind it."""

    design_effect: float
    freedom: float

    def effective_calls(self, calls: int, tail: float) -> float:
        """Return how many independent calls give the same interval, its own uncertainty included.

        Source: Korn and Graubard, Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data, Survey Methodology 24 (1998). ``tail`` is below 0.5.
        """
        from scipy.special import ndtri, stdtrit

        penalty = 1.0 if math.isinf(self.freedom) else float(ndtri(tail) / stdtrit(self.freedom, tail))
        return calls / self.design_effect * penalty**2


INDEPENDENT = Dependence(1.0, math.inf)


def dependence(blocks: Blocks, quantile: float) -> Dependence:
    """Estimate from a trace in order of time how much its calls say about a quantile.

    The indicator "this call is below the quantile" is a 0/1 series; the long-run variance of its mean is estimated by
    equally weighted cosines of low frequency (Lazarus, Lewis, Stock and Watson, HAR inference: recommendations for
    practice, Journal of Business & Economic Statistics 36, 2018), as many as its persistence allows. A smooth drift
    of the whole trace is part of what was measured and not noise: it is taken out of the indicator first.
    """
    samples = np.concatenate(blocks)
    calls = len(samples)
    if calls < LEAST_CALLS:
        return INDEPENDENT
    rank = max(1, min(math.ceil(quantile * calls), calls - LEAST_ABOVE))
    level = float(np.partition(samples, rank - 1)[rank - 1])
    below = samples <= level
    share = float(below.mean())
    if share in (0.0, 1.0):
        return INDEPENDENT
    drift, degree = _drift(blocks) if samples.min() > 0 else (None, 0)
    expected = np.full(calls, share) if drift is None else _expected_below(samples, level, drift)
    variance, freedom = _long_run_variance(below - expected, expected * (1 - expected), degree)
    return Dependence(max(variance / (share * (1 - share)), 1 / calls), freedom)


def prudent_calls(blocks: Blocks, quantile: float, tail: float) -> float:
    """Return how many independent calls a trace may be taken for in a verdict on a quantile.

    Never more than it has, and judged also where twice as many calls lie above: clusters of the few calls above a high
    quantile are seen badly in the very traces that lack them.
    """
    calls = sum(len(block) for block in blocks)
    levels = {quantile, max(0.5, 2 * quantile - 1)} if quantile > 0.5 else {quantile}
    found = [dependence(blocks, level) for level in levels]
    return min(one._replace(design_effect=max(1.0, one.design_effect)).effective_calls(calls, tail) for one in found)


def _long_run_variance(series: np.ndarray, noise: np.ndarray, degree: int) -> tuple[float, float]:
    """Return the variance of a series' mean times its length, and the degrees of freedom that it was estimated with.

    The first ``degree`` cosines are left out: a drift of that degree has been taken out of the series and with it their
    share. ``noise`` is the variance of each element; where it sits in a part of the series, the cosines see the same
    few elements and say less than their number (Satterthwaite, Biometrics Bulletin 2, 1946).

    How many cosines there are, and by how much their mean falls short of the spectrum at zero, follows from that of an
    autoregression of first order with the persistence of the series.
    """
    count = len(series)
    if not noise.any():
        return 0.0, math.inf
    persistence, groups = _persistence(series)
    room = math.sqrt(3 * WAVES_BIAS) / math.pi * groups * (1 - persistence) / math.sqrt(max(persistence, 1e-6))
    waves = int(np.clip(room, LEAST_WAVES, min(MOST_WAVES, count // 4)))
    order = np.arange(degree + 1, degree + waves + 1)
    edges = np.linspace(0, count, min(count, GROUPS) + 1).astype(int)
    cosines = np.cos(math.pi * np.outer(order, (edges[:-1] + edges[1:]) / 2 / count))
    power = (cosines @ np.add.reduceat(series - series.mean(), edges[:-1])) ** 2 * 2 / count
    shared = (cosines * np.add.reduceat(noise, edges[:-1])) @ cosines.T
    turn = np.cos(math.pi * np.minimum(order / groups, 1.0))
    seen = (1 - persistence) ** 2 / (1 - 2 * persistence * turn + persistence**2)
    return float(power.mean() / seen.mean()), float(np.trace(shared) ** 2 / (shared**2).sum())


def _persistence(series: np.ndarray) -> tuple[float, int]:
    """Return the autocorrelation of the means of neighbouring groups of calls, and how many groups there are.

    Small-sample bias is corrected as by Kendall (Biometrika 41, 1954); values below 0 count as 0.
    """
    groups = min(PERSISTENCE_GROUPS, len(series) // 2)
    edges = np.linspace(0, len(series), groups + 1).astype(int)
    means = np.add.reduceat(series, edges[:-1]) / np.diff(edges)
    means = means - means.mean()
    total = float(means @ means)
    if total == 0:
        return 0.0, groups
    found = float(means[1:] @ means[:-1]) / total
    return float(np.clip(found + (1 + 4 * found) / groups, 0, MOST_PERSISTENCE)), groups


def _drift(blocks: Blocks) -> tuple[np.ndarray | None, int]:
    """Return the smooth drift of log-latency at every call and its degree; None and 0 where there is no clear one."""
    sizes = np.array([len(block) for block in blocks])
    medians = np.array([float(np.median(block)) for block in blocks])
    calls = int(sizes.sum())
    waves = min(DRIFT_WAVES, len(blocks) // 2 - 2)
    found = smooth_drift((np.cumsum(sizes) - sizes / 2) / calls, np.log(medians), DRIFT_SHARE, waves)
    return (None, 0) if found is None else (found((np.arange(calls) + 0.5) / calls), found.degree)


@dataclass(frozen=True)
class SmoothDrift:
    """A smooth curve over a trace; called with times in 0..1, shape (N,), it returns its levels there, shape (N,)."""

    weights: np.ndarray

    @property
    def degree(self) -> int:
        """How many shapes it is made of, the constant apart."""
        return len(self.weights) - 1

    def __call__(self, times: np.ndarray) -> np.ndarray:
        return np.asarray(_smooth_shapes(times, self.degree) @ self.weights)


def smooth_drift(times: np.ndarray, levels: np.ndarray, share: float, waves: int) -> SmoothDrift | None:
    """Fit a parabola and so many slow cosines to levels at times in 0..1; None if there is no clear drift.

    Clear is what explains ``share`` of the variance of the levels; variances are those per degree of freedom, so that
    few levels are not explained by the curve's freedom alone.
    """
    if len(levels) < LEAST_DRIFT_BLOCKS:
        return None
    shapes = _smooth_shapes(times, 2 + waves)
    weights = np.linalg.lstsq(shapes, levels, rcond=None)[0]
    left = float(((levels - shapes @ weights) ** 2).sum()) / (len(levels) - len(weights))
    total = float(levels.var(ddof=1))
    return SmoothDrift(weights) if total > 0 and 1 - left / total >= share else None


def _smooth_shapes(times: np.ndarray, degree: int) -> np.ndarray:
    """Return a parabola and slow cosines at times in 0..1, shape (N, degree + 1): a basis of smooth drifts."""
    slow = np.cos(math.pi * np.outer(times, np.arange(1, degree - 1)))
    return np.column_stack([np.ones_like(times), times, times**2, slow])


def _expected_below(samples: np.ndarray, level: float, drift: np.ndarray) -> np.ndarray:
    """Return for each call the chance that one at its place in the drift lies below the level."""
    steady = np.sort(np.log(samples) - drift)
    return np.searchsorted(steady, math.log(level) - drift, side="right") / len(samples)
