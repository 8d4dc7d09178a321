"""What would decide an undecided trial is said in numbers that are right."""

from __future__ import annotations

import pytest

from evaluators.outcome import Constraint, Verdict
from evaluators.verdicts import judge
from search.deciding import advice, decided_by, examples_needed
from tests.search.factories import EXAMPLES, a_candidate, a_result, a_spec, a_trial

DROP = Constraint(metric="accuracy_drop", max=0.01)
FLOOR = Constraint(metric="accuracy", min=0.9)


def _judged(constraint: Constraint, value: float, half: float) -> Verdict:
    verdict = judge(constraint, value, (value - half, value + half))
    assert verdict.status == "undecided"
    return verdict


@pytest.mark.parametrize(
    ("constraint", "value", "half", "needed"),
    [
        (DROP, 0.008, 0.004, 4000),
        (DROP, 0.009, 0.002, 4000),
        (DROP, 0.012, 0.004, 4000),
        (FLOOR, 0.905, 0.01, 4000),
        (FLOOR, 0.895, 0.015, 9000),
    ],
)
def test_halving_an_interval_takes_four_times_the_examples(
    constraint: Constraint, value: float, half: float, needed: int
) -> None:
    assert examples_needed(_judged(constraint, value, half), 1000) == pytest.approx(needed, abs=1)


def test_that_many_examples_decide_it() -> None:
    for value in (0.0061, 0.0093, 0.0112):
        needed = examples_needed(_judged(DROP, value, 0.005), 1000)
        assert needed is not None
        narrower = [0.005 * (1000 / count) ** 0.5 for count in (needed + 1, 0.9 * needed)]
        decided = [judge(DROP, value, (value - half, value + half)).status for half in narrower]
        assert decided == ["pass" if value < 0.01 else "fail", "undecided"]


def test_no_number_of_examples_decides_a_value_on_the_limit() -> None:
    assert examples_needed(_judged(DROP, 0.01, 0.004), 1000) is None


def test_an_undecided_drop_is_decided_by_examples_and_what_they_would_show_is_said() -> None:
    within, outside = a_trial(3, accuracy=0.915, spread=0.004), a_trial(4, accuracy=0.912, spread=0.003)
    label = within.label
    assert decided_by(within) == f"#3 {label} would be decided by about 40,000 validation examples instead of 10,000."
    assert decided_by(outside).endswith(
        f"about 90,000 validation examples instead of {EXAMPLES:,}, which would probably show that it misses the limit."
    )


def test_an_undecided_latency_is_decided_by_measuring_again() -> None:
    disturbed = a_trial(1, clean=False)
    assert decided_by(disturbed).endswith("decided by measuring latency p95 again on a quieter machine.")
    near = a_trial(2, constraints=a_spec(latency_budget_ms=0.433).constraints)
    assert decided_by(near).endswith("decided by measuring latency p95 again on a quieter machine, or for longer.")


def test_advice_is_given_once_for_each_undecided_trial_where_there_is_no_best() -> None:
    undecided = [a_trial(i, a_candidate("openvino", batch_size=i + 1), accuracy=0.914 - i / 500) for i in range(2)]
    sentences = advice(a_result(undecided))
    assert [sentence.partition(" ")[0] for sentence in sentences] == ["#0", "#1"]
    assert advice(a_result([*undecided, a_trial(9)])) == []
