"""Comparisons over rounds hold for any symmetric noise and are not led astray by one wild round."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from evaluators.statistics import compare_rounds, different
from evaluators.statistics.rounds import EXACT_UP_TO, signed_rank

ROUNDS = st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=12)


@pytest.mark.parametrize(("rounds", "critical"), [(6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (12, 13), (20, 52)])
def test_ranks_are_those_of_the_published_table(rounds: int, critical: int) -> None:
    """Critical values of the two-sided signed-rank test at 5 %: Wilcoxon, Biometrics Bulletin 1 (1945), and later."""
    assert signed_rank(rounds) == critical + 1


def test_fewer_rounds_than_six_have_no_rank_at_95_percent() -> None:
    assert [signed_rank(rounds) for rounds in range(1, 6)] == [0] * 5


def test_the_normal_approximation_takes_over_without_a_jump() -> None:
    before, after, beyond = (signed_rank(EXACT_UP_TO + step) for step in range(3))
    assert before < after < beyond
    assert abs((beyond - after) - (after - before)) <= 2


@given(ROUNDS)
def test_the_interval_is_what_the_exact_test_does_not_reject(rounds: list[float]) -> None:
    data = np.array(rounds)
    low, high = (math.log(end) for end in compare_rounds(data)[1])
    for shift in (low - 1e-6, high + 1e-6):
        moved = data - shift
        assert wilcoxon(moved, method="exact", zero_method="pratt").pvalue <= 0.05 + 1e-9


@pytest.mark.parametrize("rounds", [5, 6, 8, 12])
@pytest.mark.parametrize("noise", ["normal", "laplace"])
def test_the_interval_covers_the_true_ratio(rounds: int, noise: str) -> None:
    random = np.random.default_rng(11)
    draws = getattr(random, noise)(scale=0.01, size=(1000, rounds)) + math.log(1.05)
    covered = sum(low <= 1.05 <= high for _, (low, high) in map(compare_rounds, draws))
    assert 930 <= covered <= 985


def test_one_wild_round_among_eight_moves_the_ratio_little() -> None:
    value, interval = compare_rounds(np.log([1.003, 0.998, 1.001, 0.85, 1.004, 0.996, 1.002, 0.999]))
    assert value == pytest.approx(1.0, abs=0.005)
    assert not different(interval)


def test_a_real_difference_is_found_in_spite_of_a_wild_round() -> None:
    _, interval = compare_rounds(np.log([1.052, 1.047, 1.05, 1.2, 1.055, 1.045, 1.051, 1.049]))
    assert different(interval)


def test_too_few_rounds_say_little() -> None:
    _, (low, high) = compare_rounds([0.02, 0.03])
    assert low < 1 < high
    assert compare_rounds([0.5])[1] == (0.0, math.inf)
    with pytest.raises(ValueError, match="no rounds"):
        compare_rounds([])


@given(st.lists(st.floats(-0.5, 0.5), min_size=1, max_size=12))
def test_the_estimate_lies_in_its_interval_and_turns_with_the_sign(rounds: list[float]) -> None:
    value, (low, high) = compare_rounds(rounds)
    turned, (turned_low, turned_high) = compare_rounds([-one for one in rounds])
    assert low <= value <= high
    assert turned == pytest.approx(1 / value)
    assert turned_low == pytest.approx(1 / high if high < math.inf else 0.0)
    assert turned_high == pytest.approx(1 / low if low else math.inf)


@pytest.mark.parametrize(
    ("interval", "answer"), [((1.011, 1.05), True), ((1.005, 1.05), False), ((0.9, 0.98), True), ((0.9, 1.2), False)]
)
def test_different_needs_the_whole_interval_outside_one_percent(interval: tuple[float, float], answer: bool) -> None:
    assert different(interval) is answer
