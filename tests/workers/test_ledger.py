"""The ledger: every change is a compare-and-set, and nothing committed is ever lost."""

from __future__ import annotations

import pytest
from jobs_for_tests import CAPABILITIES, MEASURED, PROFILE, REJECTED, Clock, candidate, together

from evaluators.errors import UsageError
from evaluators.outcome import Evidence, Failure, FailureKind, Outcome
from workers.ledger import Ledger
from workers.records import SearchRecord, TrialRecord

FAILED = Outcome(kind="failed", failure=Failure(kind=FailureKind.CRASHED, stage="build", reason="it crashed"))


@pytest.fixture
def ledger(ledger_at_clock: Ledger) -> Ledger:
    return ledger_at_clock


@pytest.fixture
def search(ledger: Ledger) -> SearchRecord:
    return ledger.create_search("w.py:workload", {"trials": 3}, name="first")


def queue(ledger: Ledger, search: SearchRecord, number: int = 0, key: str = "key") -> TrialRecord:
    return ledger.add_trial(search.id, candidate(number), "sampled", key)


def measured(ledger: Ledger, trial: TrialRecord, outcome: Outcome = MEASURED) -> TrialRecord:
    assert ledger.claim(trial.id, trial.attempt, "me", 60)
    assert ledger.finish(trial.id, trial.attempt, "me", outcome)
    return ledger.trial(trial.id)


def always(_: str) -> bool:
    return True


def never(_: str) -> bool:
    return False


def test_a_search_is_found_by_id_name_beginning_and_latest(ledger: Ledger, clock: Clock, search: SearchRecord) -> None:
    clock.now += 1
    second = ledger.create_search("w.py:workload", {}, name="second")
    clock.now += 1
    unnamed = ledger.create_search("w.py:workload", {})

    assert ledger.search(search.id) == ledger.search("first") == ledger.search("fir") == search
    assert ledger.search(second.id[:7]) == second
    assert ledger.search("latest") == unnamed
    assert unnamed.name == unnamed.id
    assert [record.id for record in ledger.searches()] == [search.id, second.id, unnamed.id]


def test_an_unknown_search_lists_what_exists(ledger: Ledger, search: SearchRecord) -> None:
    with pytest.raises(UsageError, match=f"no search 'nosuch'.*{search.id} first"):
        ledger.search("nosuch")


def test_an_ambiguous_beginning_is_refused(ledger: Ledger, search: SearchRecord) -> None:
    ledger.create_search("w.py:workload", {}, name="fish")

    with pytest.raises(UsageError, match="2 searches begin with 'fi'"):
        ledger.search("fi")


def test_an_empty_ledger_says_so(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="no search has been run here yet"):
        ledger.search("latest")


@pytest.mark.parametrize("name", ["first", "latest", "a/b", "", " padded"])
def test_a_name_that_is_taken_or_ambiguous_is_refused(ledger: Ledger, search: SearchRecord, name: str) -> None:
    with pytest.raises(UsageError, match="named"):
        ledger.create_search("w.py:workload", {}, name=name)


def test_a_search_is_updated(ledger: Ledger, search: SearchRecord) -> None:
    ledger.update_search(search.id, profile=PROFILE, add_elapsed_s=1.5)
    ledger.update_search(search.id, status="finished", result={"best": 3}, add_elapsed_s=2.0)
    ledger.request_cancel(search.id)

    found = ledger.search(search.id)
    assert (found.profile, found.status, found.result) == (PROFILE, "finished", {"best": 3})
    assert found.elapsed_s == 3.5
    assert found.cancel_requested
    with pytest.raises(UsageError, match="no search 'nosuch'"):
        ledger.update_search("nosuch", add_elapsed_s=1)


def test_trials_are_numbered_and_a_known_candidate_is_returned(ledger: Ledger, search: SearchRecord) -> None:
    other = ledger.create_search("w.py:workload", {}, name="other")

    added = [queue(ledger, search, number) for number in (0, 1, 0, 2)]

    assert [trial.number for trial in added] == [0, 1, 0, 2]
    assert added[2] == added[0]
    assert added[0].id == f"{search.id}/0" and added[0].candidate == candidate(0)
    assert queue(ledger, other, 0).number == 0
    assert [trial.number for trial in ledger.trials(search.id)] == [0, 1, 2]
    with pytest.raises(UsageError, match="no search 'nosuch'"):
        ledger.add_trial("nosuch", candidate(0), "sampled", "key")


def test_threads_that_add_get_distinct_numbers(ledger: Ledger, search: SearchRecord) -> None:
    together(*[lambda i=i: [queue(ledger, search, 10 * i + j) for j in range(10)] for i in range(4)])

    assert [trial.number for trial in ledger.trials(search.id)] == list(range(40))


def test_of_two_that_claim_at_once_one_wins(ledger: Ledger, search: SearchRecord) -> None:
    for number in range(10):
        trial = queue(ledger, search, number)
        won: list[str] = []

        def claim(owner: str, trial: TrialRecord = trial, won: list[str] = won) -> None:
            if ledger.claim(trial.id, 1, owner, 60):
                won.append(owner)

        together(lambda: claim("a"), lambda: claim("b"))

        assert len(won) == 1
        assert ledger.trial(trial.id).owner == won[0]


def test_a_late_finish_of_an_old_attempt_is_refused(ledger: Ledger, clock: Clock, search: SearchRecord) -> None:
    trial = queue(ledger, search)
    ledger.claim(trial.id, 1, "slow", 60)
    clock.now += 61
    ledger.requeue_lost(search.id, always)
    ledger.claim(trial.id, 2, "quick", 60)
    news = ledger.pending()

    assert not ledger.heartbeat(trial.id, 1, "slow", 60)
    assert not ledger.finish(trial.id, 1, "slow", MEASURED)
    assert not ledger.finish(trial.id, 2, "slow", MEASURED)
    assert not ledger.release(trial.id, 1, "slow")
    assert ledger.trial(trial.id).state == "RUNNING"
    assert ledger.pending() == news
    assert ledger.finish(trial.id, 2, "quick", MEASURED)
    assert not ledger.finish(trial.id, 2, "quick", FAILED)
    assert ledger.trial(trial.id).outcome == MEASURED
    assert [(attempt.owner, attempt.ended_how) for attempt in ledger.attempts(trial.id)] == [
        ("slow", "lost"),
        ("quick", "finished"),
    ]


def test_the_news_of_a_finish_is_posted_with_it(ledger: Ledger, search: SearchRecord) -> None:
    ledger.delivered([news.id for news in ledger.pending(search.id)])
    trial = queue(ledger, search)
    ledger.claim(trial.id, 1, "me", 60)
    assert ledger.pending(search.id) == ()

    ledger.finish(trial.id, 1, "me", MEASURED)

    (news,) = ledger.pending(search.id)
    assert (news.kind, news.trial_number) == ("trial", 0)
    ledger.delivered([news.id])
    assert ledger.pending(search.id) == ()


def test_searches_that_have_ended_are_named_while_there_is_news_of_them(ledger: Ledger, search: SearchRecord) -> None:
    later = ledger.create_search(search.workload, {})
    queue(ledger, later)
    assert ledger.ended_pending() == (), "both run"

    ledger.update_search(later.id, status="interrupted")
    ledger.update_search(search.id, status="finished")
    assert set(ledger.ended_pending()) == {search.id, later.id}

    ledger.delivered([news.id for news in ledger.pending(later.id)])
    assert ledger.ended_pending() == (search.id,)


FULL = {
    "sqlite": ["CREATE TRIGGER full_disk BEFORE INSERT ON outbox BEGIN SELECT RAISE(FAIL, 'disk full'); END"],
    "postgresql": [
        "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'disk full'; END $$ LANGUAGE plpgsql",
        "CREATE TRIGGER full_disk BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION refuse()",
    ],
}


def test_a_finish_whose_news_cannot_be_posted_does_not_happen(ledger: Ledger, search: SearchRecord) -> None:
    trial = queue(ledger, search)
    ledger.claim(trial.id, 1, "me", 60)
    with ledger._database.writing() as connection:
        for statement in FULL[connection.dialect.name]:
            connection.exec_driver_sql(statement)

    with pytest.raises(Exception, match="disk full"):
        ledger.finish(trial.id, 1, "me", MEASURED)

    assert ledger.trial(trial.id).state == "RUNNING"
    assert ledger.attempts(trial.id)[0].ended_how is None


def test_a_live_lease_is_left_alone_and_a_dead_owner_is_not(ledger: Ledger, clock: Clock, search: SearchRecord) -> None:
    trial = queue(ledger, search)
    ledger.claim(trial.id, 1, "me", 60)
    clock.now += 50
    ledger.heartbeat(trial.id, 1, "me", 60)
    clock.now += 50

    assert ledger.requeue_lost(search.id, always) == ()
    (lost,) = ledger.requeue_lost(search.id, never)
    assert (lost.state, lost.attempt, lost.owner, lost.lease_until) == ("QUEUED", 2, None, None)


def test_what_is_lost_too_often_ends(ledger: Ledger, search: SearchRecord) -> None:
    trial = queue(ledger, search)
    for attempt in range(1, 4):
        ledger.claim(trial.id, attempt, "me", 60)
        if attempt == 2:
            ledger.release(trial.id, attempt, "me")
        else:
            (lost,) = ledger.requeue_lost(search.id, never, max_losses=2)

    assert lost.state == "DONE"
    assert lost.outcome is not None and lost.outcome.failure is not None
    assert lost.outcome.failure.kind == FailureKind.LOST
    assert lost.outcome.reproduce == f"paretune reproduce {search.id} 0"
    assert ledger.pending(search.id)[-1].trial_number == 0


def test_an_evaluation_is_found_across_searches(ledger: Ledger, clock: Clock, search: SearchRecord) -> None:
    other = ledger.create_search("w.py:workload", {}, name="other")
    first = measured(ledger, queue(ledger, search, 0))
    clock.now += 1
    latest = measured(ledger, queue(ledger, search, 1))
    clock.now += 1
    measured(ledger, queue(ledger, search, 2), FAILED)
    queue(ledger, search, 3)
    measured(ledger, queue(ledger, search, 4, "another key"))
    answered = queue(ledger, other, 0)

    assert ledger.answer_trial(answered.id, 1, MEASURED, latest.id)

    assert not ledger.answer_trial(answered.id, 1, MEASURED, first.id)
    assert ledger.find_evaluation("key") == latest
    assert ledger.find_evaluation("unknown key") is None
    done = ledger.trial(answered.id)
    assert (done.state, done.answered_by, done.outcome) == ("DONE", latest.id, MEASURED)
    assert ledger.pending(other.id)[-1].trial_number == 0


def test_a_finished_trial_is_amended_with_more_evidence_and_no_other(ledger: Ledger, search: SearchRecord) -> None:
    trial = queue(ledger, search)
    better = MEASURED.model_copy(update={"evidence": Evidence(size_bytes=17)})
    assert not ledger.amend(trial.id, trial.attempt, better), "it has not been measured"
    measured(ledger, trial)
    ledger.delivered([news.id for news in ledger.pending(search.id)])

    assert ledger.amend(trial.id, trial.attempt, better)

    assert ledger.trial(trial.id).outcome == better
    assert [news.trial_number for news in ledger.pending(search.id)] == [trial.number], "what is shown follows"
    ledger.rerun(trial.id)
    assert not ledger.amend(trial.id, trial.attempt, MEASURED), "it is being measured again"


def test_a_rerun_keeps_the_outcome_until_there_is_a_new_one(ledger: Ledger, search: SearchRecord) -> None:
    trial = measured(ledger, queue(ledger, search), REJECTED)

    again = ledger.rerun(trial.id, gates=False)
    assert (again.state, again.attempt, again.gates, again.outcome) == ("QUEUED", 2, False, REJECTED)
    with pytest.raises(UsageError, match="QUEUED"):
        ledger.rerun(trial.id)
    assert ledger.withdraw(trial.id) and ledger.trial(trial.id).state == "DONE"

    final = measured(ledger, ledger.rerun(trial.id, gates=False))
    assert (final.outcome, final.attempt) == (MEASURED, 3)


def test_a_rerun_that_is_lost_too_often_keeps_its_outcome(ledger: Ledger, search: SearchRecord) -> None:
    trial = ledger.rerun(measured(ledger, queue(ledger, search), REJECTED).id)
    ledger.claim(trial.id, trial.attempt, "me", 60)

    (lost,) = ledger.requeue_lost(search.id, never, max_losses=1)

    assert (lost.state, lost.outcome) == ("DONE", REJECTED)


def test_a_trial_that_two_different_workers_were_lost_with_has_crashed_them(
    ledger: Ledger, search: SearchRecord
) -> None:
    for name in ("a", "b"):
        ledger.register_worker(name, name, "host", 1, CAPABILITIES, "cpu")
    trial = queue(ledger, search)
    for attempt, owner in enumerate(("a", "a", "a search's own process", "b"), start=1):
        assert ledger.claim(trial.id, attempt, owner, 60)
        (lost,) = ledger.requeue_lost(search.id, never)
        assert (lost.state == "DONE") == (owner == "b"), owner

    assert lost.outcome is not None and lost.outcome.failure is not None
    assert lost.outcome.failure.kind == FailureKind.CRASHED
    assert lost.outcome.failure.reason == "2 workers were lost while they ran it: a, b"
    assert [attempt.ended_how for attempt in ledger.attempts(trial.id)] == ["lost"] * 4


def test_an_unknown_trial_is_a_usage_error(ledger: Ledger) -> None:
    with pytest.raises(UsageError, match="no trial 'x/1'"):
        ledger.trial("x/1")
