"""Predicting: what service times say of a server before it has served anyone. Simulation only; nothing is proved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from evaluators.traffic.arrivals import poisson_arrivals
from evaluators.traffic.window import Batching, simulate

REQUESTS = 3000
HALVINGS = 8
WINDOWS_MS = (0.0, 0.5, 1.0, 2.0, 5.0)
LARGEST_WINDOW = 0.5
"""A window is at most this share of the budget: what waits for it has the rest for being run."""


def predicted_seconds(
    service_s: Sequence[float], batching: Batching, instances: int, rate_per_s: float, quantile: float, seed: int = 0
) -> float:
    """Return the quantile of the latency at a rate, in seconds, by simulation."""
    arrivals = poisson_arrivals(rate_per_s, REQUESTS / rate_per_s, seed).tolist()
    return float(np.quantile(simulate(arrivals, service_s, batching, instances), quantile, method="higher"))


def predicted_rate(
    service_s: Sequence[float], batching: Batching, instances: int, budget_s: float, quantile: float
) -> float | None:
    """Return about the highest rate at which the quantile keeps the budget, by simulation; None where no rate does."""
    per_batch = float(np.mean(service_s))
    high = instances * batching.max_batch / per_batch
    low = high / float(2**HALVINGS)

    def keeps(rate: float) -> bool:
        return predicted_seconds(service_s, batching, instances, rate, quantile) <= budget_s

    if not keeps(low):
        return None
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def windows_ms(budget_ms: float, max_batch: int) -> tuple[float, ...]:
    """Return the windows that are worth trying; requests that run alone wait for nobody."""
    if max_batch == 1:
        return (0.0,)
    return tuple(window for window in WINDOWS_MS if window <= LARGEST_WINDOW * budget_ms)


def best_serving(
    service_s: Sequence[float], choices: Iterable[tuple[Batching, int]], budget_s: float, quantile: float,
    rate_per_s: float | None,
) -> tuple[Batching, int, float]:  # fmt: skip
    """Return the batching and the number of instances that suit the traffic, and what they promise.

    With a rate, that is the lowest quantile of the latency, in seconds; without, the highest rate within the budget, 0
    where none is. Of equals the first is taken.
    """
    ranked: list[tuple[float, int, Batching, int, float]] = []
    for number, (batching, instances) in enumerate(choices):
        if rate_per_s is not None:
            promised = predicted_seconds(service_s, batching, instances, rate_per_s, quantile)
            ranked.append((promised, number, batching, instances, promised))
        else:
            rate = predicted_rate(service_s, batching, instances, budget_s, quantile) or 0.0
            ranked.append((-rate, number, batching, instances, rate))
    best = min(ranked, key=lambda item: item[:2])
    return best[2], best[3], best[4]
