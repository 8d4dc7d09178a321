"""Candidates, parameters, outcomes and verdicts are valid by construction and stable as JSON."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evaluators.candidate import Candidate, Pruning, Quantization, Runtime, parse_candidate
from evaluators.outcome import Constraint, Evidence, LatencyEvidence, Outcome
from evaluators.parameters import Choice, Number, check_values
from evaluators.verdicts import judge, judge_all


def test_equal_candidates_have_equal_hashes_whatever_the_order_of_their_knobs() -> None:
    a = Candidate(target="cpu", backend="x", quantization=Quantization(scheme="s", a=1, b=True))
    b = Candidate(target="cpu", backend="x", quantization=Quantization(b=True, scheme="s", a=1))
    assert a.hash == b.hash
    assert parse_candidate(a.canonical) == a


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Pruning(structure="none", amount=0.5), "takes no amount"),
        (lambda: Pruning(structure="channel"), "needs an amount"),
        (lambda: Pruning(structure="channel", amount=1.0), "less than 1"),
        (lambda: Quantization(scheme="s", knob=[1]), "must be a string, a number"),
        (lambda: Candidate(target="t", backend="b", batch_size=0), "greater than or equal to 1"),
        (lambda: Runtime(threads=0), "greater than or equal to 1"),
        (lambda: Candidate(target="t", backend="b", colour="red"), "Extra inputs"),
        (lambda: Constraint(metric="latency_p95_ms"), "exactly one of max and min"),
        (lambda: Outcome(kind="failed"), "carry a failure"),
        (lambda: Outcome(kind="rejected"), "name a gate"),
        (lambda: Choice("k", (1, 2), 3, ""), "not among"),
    ],
)
def test_a_value_that_makes_no_sense_cannot_exist(make: object, words: str) -> None:
    with pytest.raises((ValidationError, ValueError), match=words):
        make()  # type: ignore[operator]


def test_a_candidate_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Candidate(target="t", backend="b").batch_size = 2  # type: ignore[misc]


def test_number_offers_its_whole_grid() -> None:
    assert Number("n", 0.1, 0.5, 0.2, 0.3, "").values == (0.1, 0.3, 0.5)


@pytest.mark.parametrize(
    ("values", "words"),
    [({}, "needs a value"), ({"a": 1, "z": 2}, "no parameter 'z'"), ({"a": 7}, "must be one of"), ({"a": 1}, None)],
)
def test_values_of_parameters_are_checked_against_their_declaration(values: dict, words: str | None) -> None:
    problem = check_values([Choice("a", (1, 2), 1, "")], values, "thing")
    assert (problem is None) if words is None else (problem is not None and words in problem)


@pytest.mark.parametrize(
    ("value", "interval", "status"),
    [(4.0, (3.9, 4.1), "pass"), (4.9, (4.5, 5.5), "undecided"), (5.2, (4.5, 5.5), "undecided"), (6, (5.5, 7), "fail")],
)
def test_a_verdict_is_as_sure_as_its_interval(value: float, interval: tuple[float, float], status: str) -> None:
    verdict = judge(Constraint(metric="latency_p95_ms", max=5.0), value, interval)
    assert verdict.status == status
    assert verdict.within == (value <= 5)


@given(st.floats(-1, 1), st.floats(0, 0.2))
def test_violations_are_counted_in_points_of_accuracy(drop: float, limit: float) -> None:
    verdict = judge(Constraint(metric="accuracy_drop", max=limit), drop, None)
    assert verdict.violation == pytest.approx((drop - limit) / 0.01)


def test_what_was_not_measured_is_not_judged() -> None:
    latency = LatencyEvidence(percentile="p95", p50=1, p95=2, mean=1, ci95=(1.9, 2.1), samples=99, warmup_calls=9)
    limits = (Constraint(metric="latency_p95_ms", max=1.0), Constraint(metric="accuracy_drop", max=0.01))
    verdicts = judge_all(limits, Evidence(latency=latency))
    assert [(verdict.constraint.metric, verdict.status) for verdict in verdicts] == [("latency_p95_ms", "fail")]
