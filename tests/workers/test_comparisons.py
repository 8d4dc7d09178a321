"""Comparisons that a worker of the target is asked for: claimed by one, kept by a lease, given back, answered once."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from jobs_for_tests import PROFILE, Clock, capabilities, together, until

from evaluators.errors import InfrastructureError, UsageError
from evaluators.jobs import Comparison
from evaluators.outcome import Failure, FailureKind
from workers.comparisons import MAX_CLAIMS
from workers.lease import Cancellation, wait_for
from workers.ledger import Ledger
from workers.settings import TrialSettings
from workers.worker import Worker

FOUND = Comparison(latencies=(None, None), log_medians=((0.1,), (None,)), seconds=(1.0, 2.0))


@pytest.fixture
def ledger(ledger_at_clock: Ledger) -> Ledger:
    return ledger_at_clock


@pytest.fixture
def search(ledger: Ledger) -> str:
    search = ledger.create_search("w.py:workload", {}).id
    ledger.keep_settings(search, TrialSettings(profile=PROFILE))
    return search


def test_of_many_that_claim_a_comparison_at_once_one_gets_it(ledger: Ledger, search: str) -> None:
    asked = ledger.ask_comparison(search, "cpu", ["a", "b"], 60.0)
    claims: list[int | None] = []

    together(*[lambda name=name: claims.append(ledger.claim_comparison(asked.id, name, 30)) for name in "wxyz"])

    assert sorted(claims, key=str) == [1, None, None, None]
    assert ledger.waiting_comparisons("cpu") == ()
    assert ledger.comparison(asked.id).bundles == ("a", "b")


def test_it_is_answered_by_who_has_it_only(ledger: Ledger, search: str, clock: Clock) -> None:
    asked = ledger.ask_comparison(search, "cpu", ["a"], 60.0)
    first = ledger.claim_comparison(asked.id, "one", 30)
    clock.now += 20
    assert first == 1 and ledger.keep_comparison(asked.id, first, 30)
    clock.now += 31
    assert [waiting.id for waiting in ledger.waiting_comparisons("cpu")] == [asked.id], "its lease ran out"
    second = ledger.claim_comparison(asked.id, "two", 30)

    assert second == 2
    assert not ledger.keep_comparison(asked.id, first, 30) and not ledger.release_comparison(asked.id, first)
    assert not ledger.finish_comparison(asked.id, first, FOUND)
    assert ledger.finish_comparison(asked.id, second, FOUND) and not ledger.finish_comparison(asked.id, second, FOUND)
    assert ledger.comparison(asked.id).answer == FOUND
    assert ledger.claim_comparison(asked.id, "three", 30) is None


def test_a_failure_is_an_answer_too(ledger: Ledger, search: str) -> None:
    asked = ledger.ask_comparison(search, "cpu", ["a"], 60.0)
    failure = Failure(kind=FailureKind.CRASHED, stage="compare", reason="segmentation fault")
    assert ledger.claim_comparison(asked.id, "one", 30) == 1
    assert ledger.finish_comparison(asked.id, 1, failure)
    assert ledger.comparison(asked.id).answer == failure


def test_one_that_is_lost_again_and_again_is_not_offered_any_more(ledger: Ledger, search: str, clock: Clock) -> None:
    asked = ledger.ask_comparison(search, "cpu", ["a"], 60.0)
    for _ in range(MAX_CLAIMS):
        assert ledger.claim_comparison(asked.id, "one", 30) is not None
        clock.now += 31
    assert ledger.waiting_comparisons("cpu") == () and ledger.claim_comparison(asked.id, "one", 30) is None


def test_what_is_given_back_waits_again_and_counts_for_nothing(ledger: Ledger, search: str) -> None:
    asked = ledger.ask_comparison(search, "cpu", ["a"], 60.0)
    for _ in range(MAX_CLAIMS + 1):
        attempt = ledger.claim_comparison(asked.id, "one", 30)
        assert attempt == 1 and ledger.release_comparison(asked.id, attempt)
    assert ledger.comparison(asked.id).state == "QUEUED"


def test_asking_twice_is_asking_once_and_something_else_takes_its_place(ledger: Ledger, search: str) -> None:
    asked = ledger.ask_comparison(search, "cpu", ["a", "b"], 60.0)
    assert ledger.ask_comparison(search, "cpu", ["a", "b"], 30.0).id == asked.id
    other = ledger.ask_comparison(search, "cpu", ["c", "b"], 60.0)
    assert [waiting.id for waiting in ledger.waiting_comparisons("cpu")] == [other.id]
    assert (ledger.comparison(asked.id).state, ledger.comparison(asked.id).answer) == ("DONE", None)
    assert ledger.withdraw_comparison(other.id) and not ledger.withdraw_comparison(other.id)


@pytest.mark.parametrize("how", ["finished", "cancelled", "another target"])
def test_nobody_is_asked_for_a_search_that_does_not_run_or_is_for_others(ledger: Ledger, search: str, how: str) -> None:
    ledger.ask_comparison(search, "cpu-arm64" if how == "another target" else "cpu", ["a"], 60.0)
    if how == "finished":
        ledger.update_search(search, status="finished")
    elif how == "cancelled":
        ledger.request_cancel(search)
    assert ledger.waiting_comparisons("cpu") == ()


def test_what_is_not_known_is_refused(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="no search 'nope'"):
        ledger.ask_comparison("nope", "cpu", ["a"], 60.0)
    with pytest.raises(UsageError, match="no comparison 'nope'"):
        ledger.comparison("nope")


class Comparing:
    """Takes the place of a worker's supervisor, and compares for ``seconds``, or fails."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.seconds, self.error, self.asked = seconds, error, list[tuple[str, ...]]()

    def compare(
        self, search_id: str, bundles: Sequence[str], settings: Any, seconds: float, *, target: str,
        cancel: Sequence[Cancellation],
    ) -> Comparison | None:  # fmt: skip
        self.asked.append(tuple(bundles))
        if self.error is not None:
            raise self.error
        return None if wait_for(cancel, self.seconds) else FOUND


class Working:
    """A worker in a thread, whose comparisons are made up."""

    def __init__(self, ledger: Ledger, home: Path, comparing: Comparing) -> None:
        self.drain, self.abort = Cancellation(), Cancellation()
        self._worker = Worker(ledger, None, home, capabilities(), locks=home)  # type: ignore[arg-type]
        self._worker._supervisor = comparing  # type: ignore[assignment]
        self._thread = threading.Thread(target=self._worker.run, args=(self.drain, self.abort))

    def __enter__(self) -> Working:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.drain.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_a_worker_compares_what_it_is_asked_to(ledger: Ledger, search: str, tmp_path: Path) -> None:
    asked, comparing = ledger.ask_comparison(search, "cpu", ["a", "b"], 60.0), Comparing()
    with Working(ledger, tmp_path, comparing):
        until(lambda: ledger.comparison(asked.id).state == "DONE", 20)
    assert (comparing.asked, ledger.comparison(asked.id).answer) == ([("a", "b")], FOUND)


def test_a_worker_that_is_sent_away_gives_its_comparison_back(ledger: Ledger, search: str, tmp_path: Path) -> None:
    asked, comparing = ledger.ask_comparison(search, "cpu", ["a"], 60.0), Comparing(60.0)
    with Working(ledger, tmp_path, comparing) as working:
        until(lambda: bool(comparing.asked), 20)
        working.abort.set()
    assert (ledger.comparison(asked.id).state, ledger.comparison(asked.id).attempt) == ("QUEUED", 0)


@pytest.mark.parametrize("how", ["withdrawn", "finished"])
def test_a_worker_stops_when_nobody_wants_its_comparison_any_more(
    ledger: Ledger, search: str, tmp_path: Path, how: str
) -> None:
    asked, comparing = ledger.ask_comparison(search, "cpu", ["a"], 60.0), Comparing(60.0)
    with Working(ledger, tmp_path, comparing):
        until(lambda: bool(comparing.asked), 20)
        if how == "withdrawn":
            ledger.withdraw_comparison(asked.id)
        else:
            ledger.update_search(search, status="finished")
    assert ledger.comparison(asked.id).answer is None


def test_a_comparison_whose_sandbox_fails_waits_for_somebody_else(ledger: Ledger, search: str, tmp_path: Path) -> None:
    asked, comparing = ledger.ask_comparison(search, "cpu", ["a"], 60.0), Comparing(error=InfrastructureError("gone"))
    with Working(ledger, tmp_path, comparing):
        until(lambda: bool(comparing.asked), 20)
    assert ledger.comparison(asked.id).state == "QUEUED"


def test_a_fault_while_comparing_is_its_answer_and_the_worker_goes_on(
    ledger: Ledger, search: str, tmp_path: Path
) -> None:
    asked, comparing = ledger.ask_comparison(search, "cpu", ["a"], 60.0), Comparing(error=ValueError("odd"))
    with Working(ledger, tmp_path, comparing):
        until(lambda: ledger.comparison(asked.id).state == "DONE", 20)
        comparing.error = None
        other = ledger.ask_comparison(search, "cpu", ["b"], 60.0)
        until(lambda: ledger.comparison(other.id).state == "DONE", 20)
    answer = ledger.comparison(asked.id).answer
    assert isinstance(answer, Failure) and answer.reason == "ValueError: odd"
    assert ledger.comparison(other.id).answer == FOUND
