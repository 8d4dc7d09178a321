"""Percentiles are reported only where samples support them, and their intervals cover the truth."""

import numpy as np
import pytest

from evaluators.jobs import Protocol
from evaluators.stages.latency import measure_latency, summarize
from evaluators.statistics import mean_interval, percentile, percentile_interval, samples_needed


@pytest.mark.parametrize(("quantile", "needed"), [(0.9, 29), (0.95, 59), (0.99, 299)])
def test_a_percentile_needs_enough_samples(quantile: float, needed: int) -> None:
    assert samples_needed(quantile) == needed
    assert percentile(np.arange(needed - 1), quantile) is None
    assert percentile(np.arange(needed), quantile) is not None


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.95])
def test_percentile_intervals_cover_the_truth_as_often_as_they_say(quantile: float) -> None:
    random = np.random.default_rng(1)
    truth = -np.log(1 - quantile)
    covered = 0
    for _ in range(1000):
        low, high = percentile_interval(random.exponential(size=300), quantile)
        covered += low <= truth <= high
    assert 930 <= covered <= 990


def test_a_constant_sample_has_an_interval_of_zero_width() -> None:
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


class _Clock:
    """A clock that only moves when a call takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _measure(seconds: float, budget_ms: float | None) -> tuple[int, object]:
    clock = _Clock()

    def run(_: object) -> None:
        clock.now += seconds

    evidence = measure_latency(run, [None], Protocol(min_seconds=1, min_calls=200), budget_ms, clock=clock)
    return evidence.samples, evidence


def test_a_hopeless_candidate_is_given_up_after_a_quick_look() -> None:
    assert _measure(0.01, budget_ms=1.0)[0] < 60
    assert _measure(0.01, budget_ms=100.0)[0] == 200


def test_latency_is_in_milliseconds_and_names_its_percentile() -> None:
    evidence = summarize(np.linspace(1, 2, 100), Protocol(percentile="p99"), 10, 0.0)
    assert evidence.p50 == pytest.approx(1.5)
    assert evidence.p99 is None
    assert evidence.value == evidence.ci95[1] == 2.0


def test_slow_calls_go_on_until_their_percentile_is_supported() -> None:
    slow = _measure(0.1, budget_ms=None)[1]
    assert slow.samples >= samples_needed(0.95)  # type: ignore[attr-defined]
    assert slow.p95 is not None  # type: ignore[attr-defined]
    assert _measure(10.0, budget_ms=None)[1].p95 is None  # type: ignore[attr-defined]
