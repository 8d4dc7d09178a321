"""Intervals from blocks of calls cover the truth, whether calls depend on each other, drift, or spike."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.statistics import block_interval, percentile_interval, ratio_interval, supports_upper_bound
from evaluators.statistics.dependence import dependence

Draw = Callable[[np.random.Generator, int], np.ndarray]
TRACES, CALLS, BLOCKS = 300, 1200, 20
COVERED = (0.91, 0.985)
"""Three standard errors around 95 % for so many traces, and a point for the discreteness of ranks."""


def _independent(random: np.random.Generator, calls: int) -> np.ndarray:
    return np.exp(0.1 * random.standard_normal(calls))


def _autocorrelated(random: np.random.Generator, calls: int) -> np.ndarray:
    level = np.empty(calls)
    level[0] = random.standard_normal()
    for place, shock in enumerate(random.standard_normal(calls - 1) * np.sqrt(1 - 0.7**2), start=1):
        level[place] = 0.7 * level[place - 1] + shock
    return np.exp(0.1 * level)


def _drifting(random: np.random.Generator, calls: int) -> np.ndarray:
    return _drift(calls) * np.exp(0.05 * random.standard_normal(calls))


def _drift(calls: int) -> np.ndarray:
    return 1 + 0.2 * np.sin(2 * np.pi * (np.arange(calls) + 0.5) / calls)


def _coverage(draw: Draw, quantile: float, interval: Callable[[list[np.ndarray]], tuple[float, float]]) -> float:
    random = np.random.default_rng(7)
    truth = float(np.quantile(draw(random, 400_000), quantile))
    found = [interval(np.split(draw(random, CALLS), BLOCKS)) for _ in range(TRACES)]
    return sum(low <= truth <= high for low, high in found) / TRACES


@pytest.mark.parametrize("quantile", [0.5, 0.95])
@pytest.mark.parametrize("draw", [_independent, _autocorrelated, _drifting])
def test_intervals_cover_the_truth_as_often_as_they_say(draw: Draw, quantile: float) -> None:
    share = _coverage(draw, quantile, lambda blocks: block_interval(blocks, quantile))
    assert COVERED[0] <= share <= COVERED[1]


def test_intervals_for_independent_calls_would_not_cover_what_depends_on_each_other() -> None:
    share = _coverage(_autocorrelated, 0.5, lambda blocks: percentile_interval(np.concatenate(blocks), 0.5))
    assert share < COVERED[0]


@pytest.mark.parametrize("draw", [_independent, _autocorrelated])
def test_each_one_sided_bound_holds_at_its_own_confidence(draw: Draw) -> None:
    random = np.random.default_rng(3)
    truth = float(np.quantile(draw(random, 400_000), 0.9))
    bounds = [block_interval(np.split(draw(random, CALLS), BLOCKS), 0.9, 0.9, one_sided=True) for _ in range(TRACES)]
    below = sum(truth < low for low, _ in bounds) / TRACES
    above = sum(truth > high for _, high in bounds) / TRACES
    assert below <= 0.1 + 0.05
    assert above <= 0.1 + 0.05
    assert below + above > 0.02


def test_spells_make_a_trace_worth_fewer_calls() -> None:
    random = np.random.default_rng(2)
    steady = random.standard_normal(2000) + 10
    spells = steady + np.repeat(random.choice([0.0, 3.0], 40), 50)
    assert dependence(np.split(steady, 40), 0.5).design_effect < 2
    assert dependence(np.split(spells, 40), 0.5).design_effect > 10


def test_a_smooth_drift_does_not_make_a_trace_worth_fewer_calls() -> None:
    blocks = np.split(_drifting(np.random.default_rng(4), 2000), 40)
    assert dependence(blocks, 0.5).design_effect < 1
    low, high = block_interval(blocks, 0.5)
    assert low < np.median(np.concatenate(blocks)) < high
    assert high - low < 0.05


def test_where_no_call_can_bound_the_quantile_the_largest_stands_in() -> None:
    blocks = np.split(np.random.default_rng(0).exponential(size=40), 8)
    assert block_interval(blocks, 0.99)[1] == np.concatenate(blocks).max()


def test_an_upper_bound_needs_more_calls_where_they_depend_on_each_other() -> None:
    steady = np.random.default_rng(1).lognormal(sigma=0.1, size=400)
    one_spell = steady * np.repeat(np.where(np.arange(20) == 7, 3.0, 1.0), 20)
    assert supports_upper_bound(np.split(steady, 20), 0.95)
    assert not supports_upper_bound(np.split(steady[:50], 5), 0.95)
    assert not supports_upper_bound(np.split(one_spell[80:220], 7), 0.95), "too few calls, also for batches"
    low, high = block_interval(np.split(one_spell, 20), 0.95, one_sided=True)
    assert supports_upper_bound(np.split(one_spell, 20), 0.95), "from batches of calls"
    assert low < np.quantile(one_spell, 0.95) < high != one_spell.max()
    assert not supports_upper_bound([np.array([])], 0.5)


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("blocks", [[[2.0]], [[2.0] * 100], [[2.0], [2.0] * 30, [2.0] * 7], [[], [2.0]]])
def test_constant_latency_has_an_interval_of_zero_width(blocks: list[list[float]], *, one_sided: bool) -> None:
    assert block_interval([np.array(block) for block in blocks], 0.95, one_sided=one_sided) == (2.0, 2.0)


def test_a_drift_without_noise_is_no_obstacle() -> None:
    low, high = block_interval(np.split(np.linspace(1, 2, 400), 20), 0.5)
    assert low <= 1.5 <= high


def test_nothing_timed_gives_no_interval() -> None:
    with pytest.raises(ValueError, match="no calls"):
        block_interval([np.array([])], 0.5)
    with pytest.raises(ValueError, match="no pairs"):
        ratio_interval([])


@given(
    st.lists(st.lists(st.floats(1e-5, 10), min_size=1, max_size=30), min_size=1, max_size=12),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
    st.booleans(),
)
def test_an_interval_lies_within_the_samples_and_widens_with_confidence(
    blocks: list[list[float]], quantile: float, one_sided: bool
) -> None:
    trace = [np.array(block) for block in blocks]
    low, high = block_interval(trace, quantile, 0.9, one_sided=one_sided)
    wide_low, wide_high = block_interval(trace, quantile, 0.99, one_sided=one_sided)
    smallest, largest = np.concatenate(trace).min(), np.concatenate(trace).max()
    assert smallest <= wide_low <= low <= high
    assert one_sided or high <= wide_high <= largest, "a bound from batches is of another kind"


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_an_interval_scales_with_the_unit(seed: int, unit: float) -> None:
    blocks = np.split(np.random.default_rng(seed).lognormal(sigma=0.1, size=200), 10)
    scaled = block_interval([unit * block for block in blocks], 0.9)
    assert scaled == pytest.approx(tuple(unit * end for end in block_interval(blocks, 0.9)))


def _pairs(random: np.random.Generator, drift: np.ndarray, ratio: float) -> list[tuple[np.ndarray, np.ndarray]]:
    blocks = np.split(drift * np.exp(0.05 * random.standard_normal(len(drift))), 40)
    return [(ours / ratio, theirs) for ours, theirs in zip(blocks[::2], blocks[1::2], strict=True)]


@pytest.mark.parametrize("drift", [np.ones(1200), _drift(1200), np.linspace(0.8, 1.2, 1200)])
def test_the_ratio_is_covered_whatever_drift_both_models_share(drift: np.ndarray) -> None:
    random = np.random.default_rng(5)
    found = [ratio_interval(_pairs(random, drift, 1.3))[1] for _ in range(TRACES)]
    assert COVERED[0] <= sum(low <= 1.3 <= high for low, high in found) / TRACES <= COVERED[1]


def test_a_few_wild_pairs_move_the_ratio_little() -> None:
    pairs = _pairs(np.random.default_rng(6), np.ones(4000), 2.0)
    wild = [*pairs[:-2], *((ours, 5 * theirs) for ours, theirs in pairs[-2:])]
    value, (low, high) = ratio_interval(wild)
    assert value == pytest.approx(2.0, rel=0.02)
    assert low < 2.0 < high < 2.1


def test_twice_as_fast_is_a_ratio_of_two() -> None:
    value, (low, high) = ratio_interval([(np.full(5, 1.0), np.full(3, 2.0))] * 10)
    assert value == pytest.approx(2.0)
    assert (low, high) == pytest.approx((2.0, 2.0))
