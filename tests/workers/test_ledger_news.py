"""What is asked of the ledger again and again is answered without reading all of it, on each kind of database."""

from __future__ import annotations

import pytest
from jobs_for_tests import MEASURED, PROFILE, Clock, candidate, capabilities

from workers import database
from workers.ledger import Ledger
from workers.registered import SILENT_SECONDS
from workers.settings import TrialSettings


def test_trials_that_ended_are_left_out_of_the_progress_up_to_a_number(ledger_at_clock: Ledger) -> None:
    ledger = ledger_at_clock
    search, other = (ledger.create_search("w.py:workload", {}).id for _ in range(2))
    for number in range(5):
        ledger.add_trial(search, candidate(number), "sampled", "key")
        ledger.add_trial(other, candidate(number), "sampled", "key")
    for number in (0, 2, 4):
        assert ledger.claim(f"{search}/{number}", 1, "me", 60)
    for number in (0, 4):
        assert ledger.finish(f"{search}/{number}", 1, "me", MEASURED)

    assert ledger.progress(search, done_up_to=-1) == ledger.progress(search)
    assert ledger.progress(search, done_up_to=2) == (
        (1, 1, "QUEUED"), (2, 1, "RUNNING"), (3, 1, "QUEUED"), (4, 1, "DONE"),
    )  # fmt: skip
    assert [step[0] for step in ledger.progress(search, done_up_to=4)] == [1, 2, 3]
    ledger.rerun(f"{search}/0")
    assert ledger.progress(search, done_up_to=4)[0] == (0, 2, "QUEUED")


def test_trials_are_read_by_number_however_many_are_named(
    ledger_at_clock: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = ledger_at_clock
    search = ledger.create_search("w.py:workload", {}).id
    trials = [ledger.add_trial(search, candidate(number), "sampled", "key") for number in range(7)]
    assert ledger.trials(search, [5, 1, 99]) == (trials[1], trials[5])
    assert ledger.trials(search, ()) == ()
    monkeypatch.setattr(database, "MOST_PARAMETERS", 3)
    assert ledger.trials(search, range(7)) == tuple(trials) == ledger.trials(search)


def test_one_trial_that_waits_or_the_first_few_can_be_asked_for(ledger_at_clock: Ledger, clock: Clock) -> None:
    ledger = ledger_at_clock
    search = ledger.create_search("w.py:workload", {}).id
    ledger.keep_settings(search, TrialSettings(profile=PROFILE))
    trials = []
    for number in range(4):
        clock.now += 1
        trials.append(ledger.add_trial(search, candidate(number), "sampled", "key"))
    assert ledger.queued("cpu", most=2) == tuple(trials[:2])
    assert ledger.queued("cpu", only=trials[3].id) == (trials[3],)
    assert ledger.claim(trials[3].id, 1, "me", 60)
    assert ledger.queued("cpu", only=trials[3].id) == ()
    assert ledger.queued("gpu", only=trials[0].id) == ()
    assert ledger.waiting_for() == {"cpu": 3}
    ledger.update_search(search, status="finished")
    assert ledger.waiting_for() == {}


def test_who_was_heard_of_lately_is_told_by_id_and_start(ledger_at_clock: Ledger, clock: Clock) -> None:
    ledger = ledger_at_clock
    for name in ("there", "gone", "silent"):
        ledger.register_worker(name, name, "here", 1, capabilities(), "cpu")
    clock.now += SILENT_SECONDS + 1
    ledger.worker_seen("there")
    ledger.worker_seen("gone")
    ledger.end_worker("gone")
    assert ledger.heard_of() == (("there", 1000.0),)
    ledger.register_worker("there", "there", "here", 1, capabilities(), "cpu")
    assert ledger.heard_of() == (("there", clock.now),), "registered anew, it may have told something else"
    assert [worker.id for worker in ledger.workers(["there", "nobody"])] == ["there"]


def test_undelivered_news_is_counted(ledger_at_clock: Ledger) -> None:
    ledger = ledger_at_clock
    before = ledger.undelivered()
    search = ledger.create_search("w.py:workload", {}).id
    assert ledger.undelivered() == before + 1
    ledger.delivered([item.id for item in ledger.pending(search)])
    assert ledger.undelivered() == before
