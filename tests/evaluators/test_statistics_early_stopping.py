"""Decisions come as soon as LoadGen's rule allows, and rarely wrong over all looks together."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from evaluators.statistics import block_interval, decide, least_calls
from evaluators.statistics.early_stopping import Decision

LOOKS = (150, 300, 600, 1200)


@pytest.mark.parametrize(
    ("quantile", "over", "calls"), [(0.9, 0, 44), (0.9, 1, 64), (0.99, 0, 459), (0.99, 1, 662), (0.99, 10, 2010)]
)
def test_least_calls_are_those_of_loadgen(quantile: float, over: int, calls: int) -> None:
    assert least_calls(over, quantile, 0.99) == calls


@given(st.integers(0, 50), st.sampled_from([0.5, 0.9, 0.95, 0.99]), st.sampled_from([0.9, 0.95, 0.99]))
def test_least_calls_are_the_fewest_that_prove_it(over: int, quantile: float, confidence: float) -> None:
    calls = least_calls(over, quantile, confidence)
    assert binom.cdf(over, calls, 1 - quantile) <= 1 - confidence
    assert binom.cdf(over, calls - 1, 1 - quantile) > 1 - confidence


def _autocorrelated(random: np.random.Generator, traces: int, calls: int, correlation: float) -> np.ndarray:
    level = random.standard_normal((traces, calls))
    level[:, 1:] *= np.sqrt(1 - correlation**2)
    for place in range(1, calls):
        level[:, place] += correlation * level[:, place - 1]
    return np.exp(0.1 * level)


def _verdicts(traces: np.ndarray, limit: float, quantile: float) -> list[str]:
    verdicts = []
    for trace in traces:
        for calls in LOOKS:
            verdict = decide(np.split(trace[:calls], calls // 30), limit, quantile, 0.95, len(LOOKS))
            if verdict != "undecided":
                break
        verdicts.append(verdict)
    return verdicts


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_a_system_at_its_limit_is_rarely_said_to_keep_or_to_miss_it(correlation: float) -> None:
    traces = _autocorrelated(np.random.default_rng(8), 400, LOOKS[-1], correlation)
    limit = float(np.exp(0.1 * 1.2815515655446004))
    verdicts = _verdicts(traces, limit, 0.9)
    assert verdicts.count("pass") <= 0.05 * 400
    assert verdicts.count("fail") <= 0.05 * 400


def test_the_plain_rule_would_err_where_calls_depend_on_each_other() -> None:
    traces = _autocorrelated(np.random.default_rng(8), 400, LOOKS[-1], 0.7)
    over = (traces > np.exp(0.1 * 1.2815515655446004)).sum(axis=1)
    assert np.mean(binom.cdf(over, LOOKS[-1], 0.1) <= 0.05) > 0.1


@pytest.mark.parametrize(("factor", "verdict"), [(0.8, "pass"), (1.25, "fail")])
def test_a_system_well_off_its_limit_is_decided_at_the_first_look(factor: float, verdict: str) -> None:
    trace = np.random.default_rng(9).lognormal(sigma=0.05, size=150) * factor
    assert decide(np.split(trace, 5), 1.1, 0.9, 0.95, looks=4) == verdict


def test_too_few_calls_prove_nothing_however_quick_they_are() -> None:
    quick = np.random.default_rng(10).lognormal(sigma=0.05, size=30)
    assert decide([quick], 100.0, 0.99) == "undecided"
    assert decide(quick, 100.0, 0.5) == "pass"
    assert decide([], 1.0, 0.5) == decide(np.array([]), 1.0, 0.5) == "undecided"


def test_more_looks_ask_for_more_calls() -> None:
    constant = [np.full(15, 1.0)] * 4
    assert decide(constant, 2.0, 0.95, 0.95, looks=1) == "pass"
    assert decide(constant, 2.0, 0.95, 0.95, looks=5) == "undecided"


@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.9, 0.95]), st.floats(0.8, 1.3))
def test_a_verdict_agrees_with_the_one_sided_bounds(seed: int, quantile: float, limit: float) -> None:
    blocks = np.split(np.random.default_rng(seed).lognormal(sigma=0.1, size=400), 20)
    verdict = decide(blocks, limit, quantile)
    assert verdict in get_args(Decision)
    low, high = block_interval(blocks, quantile, one_sided=True)
    if verdict == "pass":
        assert low <= limit
    elif verdict == "fail":
        assert high > limit
    else:
        assert low <= limit * 1.02
        assert high >= limit / 1.02
