"""Intervals of scores cover what they promise to cover, and verdicts over several looks err no more than allowed."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multinomial

from evaluators.statistics.scores import (
    EARLY_SHARE,
    Estimate,
    accuracy_of,
    bootstrap,
    drop_of,
    jackknife,
    look_confidence,
    looks,
    paired_proportions,
)

SIMULATIONS = 2_000


def _chance_of_error(examples: int, lost: float, gained: float, confidence: float) -> tuple[float, float]:
    """The exact chance that the lower and the upper bound miss the truth, for expected counts of discordant pairs."""
    most = int(lost + gained + 8 * math.sqrt(lost + gained + 1)) + 8
    b, c = np.meshgrid(np.arange(min(most, examples)), np.arange(min(most, examples)), indexing="ij")
    possible = b + c <= examples
    b, c = b[possible], c[possible]
    p, q = lost / examples, gained / examples
    chance = multinomial.pmf(np.stack([b, c, examples - b - c], -1), examples, [p, q, 1 - p - q])
    low, high = paired_proportions(b, c, examples, confidence)
    return float(chance[low > p - q + 1e-12].sum()), float(chance[high < p - q - 1e-12].sum())


@pytest.mark.parametrize("confidence", [0.95, 0.99])
@pytest.mark.parametrize("examples", [200, 2000])
@pytest.mark.parametrize(
    ("lost", "gained"), [(0.5, 0.01), (1, 1), (2.9, 0.01), (3.2, 0.1), (0.5, 5), (5, 5), (8, 20), (25, 5), (20, 0.01)]
)
def test_bounds_of_paired_proportions_err_no_more_than_they_say(
    lost: float, gained: float, examples: int, confidence: float
) -> None:
    for chance in _chance_of_error(examples, lost, gained, confidence):
        assert chance <= (1 - confidence) * 1.02


def test_with_many_pairs_that_differ_the_bounds_are_not_wasteful() -> None:
    for chance in _chance_of_error(2000, 40, 20, 0.95):
        assert chance >= 0.03


@pytest.mark.parametrize("examples", [1, 30, 200, 2000])
def test_where_no_pair_differs_the_bound_is_that_of_the_rule_of_three(examples: int) -> None:
    same = np.ones(examples)
    estimate = drop_of(same, same, 0.95)
    assert estimate.value == 0
    assert estimate.bounds[1] == pytest.approx(1 - 0.05 ** (1 / examples))
    assert estimate.bounds[0] == -estimate.bounds[1]


@given(
    st.integers(1, 500).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n)).flatmap(
            lambda pair: st.tuples(st.just(pair[0]), st.just(pair[1]), st.integers(0, pair[0] - pair[1]))
        )
    ),
    st.floats(0.6, 0.9999),
)
def test_bounds_enclose_the_drop_stay_possible_and_mirror_when_models_swap(
    counts: tuple[int, int, int], confidence: float
) -> None:
    examples, lost, gained = counts
    low, high = paired_proportions(lost, gained, examples, confidence)
    assert -1 <= low <= (lost - gained) / examples <= high <= 1
    mirrored = paired_proportions(gained, lost, examples, confidence)
    assert (-mirrored[1], -mirrored[0]) == (low, high)


Draw = Callable[[np.random.Generator, tuple[int, int]], np.ndarray]


def _rare(random: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Differences that are nearly always 0: about three among those of a sample, up to 1 in size."""
    return (random.random(shape) < 3 / shape[1]) * random.uniform(0.5, 1, shape)


@pytest.mark.parametrize(
    ("draw", "truth"),
    [
        (lambda random, shape: random.normal(0.02, 0.1, shape), 0.02),
        (lambda random, shape: random.exponential(0.02, shape), 0.02),
        (lambda random, shape: random.integers(-2, 3, shape) / 5 * (random.random(shape) < 0.3), 0.0),
        (_rare, 3 / 200 * 0.75),
    ],
    ids=["normal", "skewed", "steps", "rare"],
)
def test_drops_of_real_scores_are_covered(draw: Draw, truth: float) -> None:
    random = np.random.default_rng(0)
    drops = draw(random, (SIMULATIONS, 200))
    base = random.uniform(2, 3, (SIMULATIONS, 200))
    found = [drop_of(original, original - drop, 0.95) for original, drop in zip(base, drops, strict=True)]
    sampling = 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)
    assert np.mean([estimate.bounds[1] < truth for estimate in found]) <= 0.05 + sampling
    assert np.mean([estimate.bounds[0] > truth for estimate in found]) <= 0.05 + sampling
    assert np.mean([estimate.ci95[0] <= truth <= estimate.ci95[1] for estimate in found]) >= 0.95 - sampling


def test_the_interval_of_normal_differences_is_hardly_wider_than_students() -> None:
    random = np.random.default_rng(1)
    original, drop = random.uniform(2, 3, 2000), random.normal(0, 0.1, 2000)
    width = np.diff(drop_of(original, original - drop, 0.95).ci95)[0]
    assert width == pytest.approx(2 * 1.961 * drop.std(ddof=1) / math.sqrt(2000), rel=0.03)


@pytest.mark.parametrize("drop", [0.0, 0.25])
def test_differences_that_are_all_equal_are_not_taken_for_certain(drop: float) -> None:
    original = np.linspace(0, 2, 400)
    estimate = drop_of(original, original - drop, 0.95)
    assert estimate.value == pytest.approx(drop)
    assert estimate.bounds[0] < drop < estimate.bounds[1]
    assert estimate.bounds[1] - drop < 5 * 2 / 400


@pytest.mark.parametrize("probability", [0.5, 0.93, 0.995])
def test_accuracies_of_right_and_wrong_are_covered(probability: float) -> None:
    random = np.random.default_rng(2)
    right = random.binomial(400, probability, SIMULATIONS)
    cases = {count: accuracy_of((np.arange(400) < count).astype(float), 0.95) for count in set(right.tolist())}
    found = [cases[count] for count in right.tolist()]
    sampling = 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)
    assert np.mean([estimate.bounds[0] > probability for estimate in found]) <= 0.05 + sampling
    assert np.mean([estimate.bounds[1] < probability for estimate in found]) <= 0.05 + sampling
    assert np.mean([estimate.ci95[0] <= probability <= estimate.ci95[1] for estimate in found]) >= 0.93 - sampling


def _mean(scores: np.ndarray) -> Callable[[np.ndarray], float]:
    return lambda drawn: float(scores[drawn].mean())


def _paired(original: np.ndarray, found: np.ndarray, resamples: int = 400) -> tuple[Estimate, Estimate]:
    """The bootstrap of a metric that is a mean: there, the answer is known."""
    spreads = bootstrap(_mean(original), lambda answers, _: float(found[answers].mean()), len(found), resamples)
    assert spreads is not None
    score, drop = spreads
    value = float(found.mean())
    return score.around(value, 0.95, ""), drop.around(float(original.mean()) - value, 0.95, "")


def test_the_paired_bootstrap_of_a_mean_is_the_paired_t_interval() -> None:
    random = np.random.default_rng(3)
    original = random.normal(0.8, 0.3, 1000)
    found = original - random.normal(0.01, 0.05, 1000)
    score, drop = _paired(original, found)
    known = drop_of(original, found, 0.95)
    assert drop.bounds == pytest.approx(known.bounds, abs=0.15 * (known.bounds[1] - known.bounds[0]))
    assert score.ci95 == pytest.approx(accuracy_of(found, 0.95).ci95, abs=0.15 * 4 * 0.3 / math.sqrt(1000))
    assert np.diff(drop.ci95)[0] < np.diff(score.ci95)[0] / 3


def test_the_paired_bootstrap_of_equal_answers_is_not_certain() -> None:
    scores = (np.random.default_rng(4).random(500) < 0.9).astype(float)
    _, drop = _paired(scores, scores, resamples=50)
    assert drop.value == 0
    assert 0 < drop.bounds[1] < 5 / 500


def test_a_score_that_resamples_do_not_have_has_no_interval() -> None:
    assert bootstrap(lambda drawn: math.nan, lambda answers, targets: 0.5, 100, 50) is None


def test_the_jackknife_of_a_mean_is_the_standard_error_of_the_groups() -> None:
    values = np.random.default_rng(5).normal(0, 1, 2000)
    parts = np.array_split(np.arange(2000), 20)
    without = np.array([np.delete(values, part).mean() for part in parts])
    means = np.array([values[part].mean() for part in parts])
    assert jackknife(without, 2000).error == pytest.approx(means.std(ddof=1) / math.sqrt(20))


@pytest.mark.parametrize(
    ("examples", "expected"),
    [(100, (100,)), (399, (399,)), (400, (200, 400)), (2000, (250, 500, 1000, 2000)), (0, (0,))],
)
def test_looks_double_from_the_first_to_all(examples: int, expected: tuple[int, ...]) -> None:
    assert looks(examples) == expected


@given(st.floats(0.6, 0.999), st.integers(2, 12))
def test_the_looks_together_spend_no_more_than_the_error_that_is_allowed(confidence: float, planned: int) -> None:
    early = 1 - look_confidence(confidence, planned, last=False)
    last = 1 - look_confidence(confidence, planned, last=True)
    assert (planned - 1) * early + last <= (1 - confidence) * (1 + 1e-9)
    assert last >= (1 - confidence) * (1 - EARLY_SHARE) * (1 - 1e-9)
    assert look_confidence(confidence, 1, last=True) == confidence


@pytest.mark.parametrize(("discordant", "limit"), [(0.012, 0.01), (0.05, 0.01), (0.2, 0.02)])
def test_over_all_looks_a_candidate_at_its_limit_is_judged_wrongly_no_more_often_than_allowed(
    discordant: float, limit: float
) -> None:
    simulations, confidence, plan = 20_000, 0.95, looks(2000)
    random = np.random.default_rng(6)
    chances = [(discordant + limit) / 2, (discordant - limit) / 2, 1 - discordant]
    failed, passed = np.zeros(simulations, bool), np.zeros(simulations, bool)
    lost = gained = np.zeros(simulations, int)
    for seen, more in zip(plan, np.diff((0, *plan)), strict=True):
        counts = random.multinomial(more, chances, simulations)
        lost, gained = lost + counts[:, 0], gained + counts[:, 1]
        low, high = paired_proportions(lost, gained, seen, look_confidence(confidence, len(plan), seen == plan[-1]))
        failed, passed = failed | (low > limit), passed | (high < limit)
    sampling = 3 * math.sqrt(0.05 * 0.95 / simulations)
    assert failed.mean() <= 0.05 + sampling
    assert passed.mean() <= 0.05 + sampling
