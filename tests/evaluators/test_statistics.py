"""Percentiles are reported only where samples support them, and their intervals cover the truth."""

import numpy as np
import pytest

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
