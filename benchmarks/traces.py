"""Synthetic latency traces whose quantiles are known: stationary, autocorrelated, drifting, bimodal and spiky."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

TYPICAL_SPREAD = 0.1
"""Standard deviation of log-latency of the unimodal traces."""
NARROW_SPREAD = 0.05
"""The same within one mode, and around a drift."""
DRIFT = 0.2
SLOW_SHARE, SLOWDOWN = 0.35, 1.3
SPIKE_SHARE, SPIKES = 0.02, (2.0, 10.0)
GRID = 4000

Draw = Callable[[np.random.Generator, int, float], np.ndarray]


@dataclass(frozen=True)
class Process:
    """A generating process: ``draw(random, calls, block_calls)`` gives latencies of consecutive calls, shape (calls,).

    Its law over a whole trace is a mixture of log-normal latencies around ``centres``, each as often as ``weights``
    say, all with the standard deviation ``spread`` of the logarithm.
    """

    draw: Draw
    centres: tuple[float, ...] = (1.0,)
    weights: tuple[float, ...] = (1.0,)
    spread: float = NARROW_SPREAD

    def truth(self, quantile: float) -> float:
        """Return the quantile of the law."""
        return _mixture_quantile(self, quantile)


@cache
def _mixture_quantile(process: Process, quantile: float) -> float:
    from scipy.optimize import brentq
    from scipy.stats import norm

    centres, weights = np.log(process.centres), np.asarray(process.weights) / sum(process.weights)

    def excess(level: float) -> float:
        return float(weights @ norm.cdf((level - centres) / process.spread)) - quantile

    reach = 8 * process.spread
    return float(np.exp(brentq(excess, centres.min() - reach, centres.max() + reach, xtol=1e-12)))


def autocorrelated(correlation: float) -> Process:
    """Log-latency is a stationary autoregression of first order, ``correlation`` from one call to the next."""

    def draw(random: np.random.Generator, calls: int, block_calls: float) -> np.ndarray:
        from scipy.signal import lfilter

        shocks = random.standard_normal(calls)
        shocks[1:] *= np.sqrt(1 - correlation**2)
        return np.exp(TYPICAL_SPREAD * lfilter([1.0], [1.0, -correlation], shocks))

    return Process(draw, spread=TYPICAL_SPREAD)


def drifting(shape: Callable[[np.ndarray], np.ndarray], *, anywhere: bool) -> Process:
    """The level follows ``shape`` (-1..1 over times in 0..1), from a random phase if ``anywhere``, or turned around."""

    def draw(random: np.random.Generator, calls: int, block_calls: float) -> np.ndarray:
        times = (np.arange(calls) + 0.5) / calls
        times = (times + random.random()) % 1 if anywhere else times
        turned = random.choice([-1, 1])
        return _noise(random, calls) * (1 + DRIFT * turned * shape(times))

    centres = 1 + DRIFT * shape((np.arange(GRID) + 0.5) / GRID)
    return Process(draw, tuple(centres), (1.0,) * GRID)


def bimodal(dwell_blocks: float | None) -> Process:
    """Some calls are slow: each by chance, or for spells of ``dwell_blocks`` blocks in the mean of both modes."""

    def draw(random: np.random.Generator, calls: int, block_calls: float) -> np.ndarray:
        if dwell_blocks is None:
            slow = random.random(calls) < SLOW_SHARE
        else:
            slow = _spells(random, calls, SLOW_SHARE, 2 * dwell_blocks * block_calls)
        return _noise(random, calls) * np.where(slow, SLOWDOWN, 1.0)

    return Process(draw, (1.0, SLOWDOWN), (1 - SLOW_SHARE, SLOW_SHARE))


def spiky(burst_calls: float | None) -> Process:
    """Few calls take 2 to 10 times as long: each by chance, or in bursts of ``burst_calls`` calls in the mean."""

    def draw(random: np.random.Generator, calls: int, block_calls: float) -> np.ndarray:
        if burst_calls is None:
            hit = random.random(calls) < SPIKE_SHARE
        else:
            hit = _spells(random, calls, SPIKE_SHARE, burst_calls / SPIKE_SHARE)
        return _noise(random, calls) * np.where(hit, random.uniform(*SPIKES, calls), 1.0)

    heights = np.linspace(*SPIKES, GRID)
    return Process(draw, (1.0, *heights), (1 - SPIKE_SHARE, *(SPIKE_SHARE / GRID,) * GRID))


def _noise(random: np.random.Generator, calls: int) -> np.ndarray:
    return np.exp(NARROW_SPREAD * random.standard_normal(calls))


def _spells(random: np.random.Generator, calls: int, share: float, cycle_calls: float) -> np.ndarray:
    """Return when a two-state Markov chain is in its rarer state, that share of the time, once per cycle."""
    starts_inside = random.random() < share
    spells = 2 * int(np.ceil(2 * calls / cycle_calls + 10))
    means = np.where((np.arange(spells) % 2 == 0) == starts_inside, share, 1 - share) * cycle_calls
    ends = np.cumsum(random.geometric(np.minimum(1.0, 1 / means)))
    while ends[-1] < calls:
        ends = np.concatenate([ends, ends[-1] + np.cumsum(random.geometric(np.minimum(1.0, 1 / means)))])
    passed = np.searchsorted(ends, np.arange(calls), side="right")
    return np.asarray((passed % 2 == 0) == starts_inside)
