"""What looks for faults in a ledger finds them."""

from __future__ import annotations

from typing import Any

import pytest

from evaluators.candidate import Candidate
from tests.faults.checks import front_of, overdue, overlapping, problems_of_trial
from tests.faults.sandboxed import measured
from workers.records import AttemptRecord, EndedHow, TrialRecord

MEASURED = measured("ab" * 8, "bundle", ())


def a_trial(key: str = "ab" * 8, **values: Any) -> TrialRecord:
    """Return a trial that was measured at its first attempt."""
    fixed: dict[str, Any] = {
        "id": "s/0", "search_id": "s", "number": 0, "candidate": Candidate(target="cpu", backend="eager"),
        "candidate_hash": key, "evaluation_key": "k", "source": "sampled", "state": "DONE", "attempt": 1, "owner": None,
        "lease_until": None, "gates": True, "outcome": measured(key, "bundle", ()), "answered_by": None,
        "view_id": None, "created_at": 0.0, "finished_at": 2.0,
    }  # fmt: skip
    return TrialRecord.model_validate(fixed | values)


def attempts(*how: EndedHow | None) -> list[AttemptRecord]:
    """Return attempts that ended so, one after the other."""
    return [AttemptRecord(trial_id="s/0", attempt=number, owner="w", started_at=10.0 * number,
                          ended_at=None if each is None else 10.0 * number + 5, ended_how=each)
            for number, each in enumerate(how, start=1)]  # fmt: skip


def test_a_trial_that_ended_exactly_once_is_fine() -> None:
    assert problems_of_trial(a_trial(), attempts("finished")) == []
    assert problems_of_trial(a_trial(attempt=3), attempts("lost", "disturbed", "finished")) == []


@pytest.mark.parametrize(
    ("trial", "tried", "problem"),
    [
        (a_trial(attempt=2), attempts("finished", "finished"), "ended as"),
        (a_trial(attempt=1), attempts("lost"), "ended as"),
        (a_trial(attempt=1), attempts(None), "ended as"),
        (a_trial(attempt=3), attempts("lost", "finished"), "at attempt 3"),
        (a_trial(state="QUEUED", outcome=None), attempts("finished"), "it is QUEUED"),
    ],
)
def test_a_trial_that_ended_twice_or_never_is_found(
    trial: TrialRecord, tried: list[AttemptRecord], problem: str
) -> None:
    assert any(problem in found for found in problems_of_trial(trial, tried))


def test_attempts_at_the_same_time_are_found() -> None:
    first, second = attempts("lost", "finished")
    early = second.model_copy(update={"started_at": 12.0})
    assert problems_of_trial(a_trial(attempt=2), [first, early]) == ["attempt 2 began before attempt 1 had ended"]


def test_measurements_at_the_same_time_on_one_device_are_found() -> None:
    def interval(device: str, start: float, end: float, company: bool = False) -> dict[str, Any]:
        return {"device": device, "start": start, "end": end, "company": company, "pid": int(start)}

    apart = [interval("0", 1, 2), interval("0", 2, 3), interval("1", 1, 3)]
    assert overlapping(apart) == []
    assert overlapping([*apart, interval("0", 2.5, 4)]) == ["0: 2 until 3.000, 2 from 2.500"]
    assert overlapping([interval("1", 9, 9, company=True)]) == ["1: 9 had company"]


def test_trials_that_run_past_their_lease_are_found() -> None:
    running = a_trial(state="RUNNING", outcome=None, owner="w", lease_until=100.0)
    assert overdue([running], 129.0) == []
    assert overdue([running], 131.0) == ["s/0"]


def test_the_front_leaves_out_what_another_one_beats() -> None:
    fast, better, beaten = "0000000000000000", "8000000080000000", "8000000100000000"
    assert front_of([a_trial(fast), a_trial(better), a_trial(beaten)]) == [fast, better]
