"""The fault matrix of a fleet, on real servers and worker processes: every trial ends exactly once."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from scripts.servers import PostgreSql, Redis, wait_until
from search.fleet_api import _bell
from tests.conftest import present
from tests.faults.coordinating import coordinating, submit
from tests.faults.sleeping import part
from workers.ledger import Ledger
from workers.records import AttemptRecord, SearchRecord

TRIALS = 8
WORKERS = ("a", "b")


class Fleet:
    """Two worker processes on a real broker and a real database; those that were killed are started again."""

    def __init__(self, database: PostgreSql, broker: Redis, home: Path) -> None:
        self.database, self.broker, self.home = database, broker, home
        self.url = database.new_ledger()
        self.ledger = Ledger(self.url)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.bell = _bell(broker.url, self.ledger)

    def complete(self) -> None:
        """Start the workers that are missing, and wait until all are there."""
        for name in WORKERS:
            if name not in self.processes or self.processes[name].poll() is not None:
                self.processes[name] = part("worker", self.url, self.broker.url, self.home, name)
        wait_until(lambda: {worker.pid for worker in self.ledger.workers() if worker.ended_at is None}
                   >= {process.pid for process in self.processes.values()})  # fmt: skip

    def end(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait(30)
        self.ledger.close()

    def done(self, search: SearchRecord) -> int:
        return sum(step[2] == "DONE" for step in self.ledger.progress(search.id))

    def wait_for(self, search: SearchRecord, trials: int) -> None:
        """Block until so many trials of a search have ended."""
        wait_until(lambda: self.done(search) >= trials, 30)

    def busy(self, search: SearchRecord) -> tuple[str, subprocess.Popen[bytes]]:
        """Return a trial that runs, and the process that runs it."""
        while True:
            for trial in self.ledger.trials(search.id):
                for process in self.processes.values():
                    if trial.state == "RUNNING" and f":{process.pid}:" in (trial.owner or ""):
                        return trial.id, process
            time.sleep(0.01)

    def attempts(self, search: SearchRecord) -> list[list[AttemptRecord]]:
        return [list(self.ledger.attempts(trial.id)) for trial in self.ledger.trials(search.id)]


@pytest.fixture(scope="module")
def running(postgresql: PostgreSql, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with present(Redis) as broker:
        fleet = Fleet(postgresql, broker, tmp_path_factory.mktemp("fleet"))
        try:
            yield fleet
        finally:
            fleet.end()


@pytest.fixture
def fleet(running: Fleet) -> Fleet:
    running.complete()
    return running


def every_trial_ended_exactly_once(fleet: Fleet, search: SearchRecord) -> list[str]:
    """Wait for a search's end, check it, and return how the attempts ended that did not finish."""
    wait_until(lambda: fleet.ledger.search(search.id).status != "running", 40)
    assert fleet.ledger.search(search.id).status == "finished"
    trials = fleet.ledger.trials(search.id)
    assert [trial.state for trial in trials] == ["DONE"] * TRIALS
    assert all(trial.outcome is not None and trial.outcome.kind == "measured" for trial in trials)
    ended = [[attempt.ended_how for attempt in attempts] for attempts in fleet.attempts(search)]
    assert all(how.count("finished") == 1 and how[-1] == "finished" for how in ended), ended
    news = [item.trial_number for item in fleet.ledger.pending(search.id) if item.trial_number is not None]
    result = fleet.ledger.search(search.id).result or {}
    again = [row["trial"] for row in result["finals"]["rows"]]
    assert sorted(news) == sorted([*range(TRIALS), *again]), "each outcome is told once, and amended at the end"
    return [how for attempts in ended for how in attempts[:-1] if how is not None]


def test_the_undisturbed_fleet_shares_the_trials_and_queues_one_more_than_it_has_devices(fleet: Fleet) -> None:
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search, most = submit(fleet.ledger, TRIALS), 0
        while fleet.ledger.search(search.id).status == "running":
            most = max(most, sum(step[2] != "DONE" for step in fleet.ledger.progress(search.id)))
            time.sleep(0.01)
    assert every_trial_ended_exactly_once(fleet, search) == []
    assert most <= len(WORKERS) + 1
    owners = {attempt.owner for attempts in fleet.attempts(search) for attempt in attempts}
    assert len(owners) == len(WORKERS), "both worked"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_is_killed_drained_or_sent_away(fleet: Fleet, number: signal.Signals) -> None:
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit(fleet.ledger, TRIALS)
        trial_id, process = fleet.busy(search)
        process.send_signal(number)
        assert process.wait(20) == (-number if number == signal.SIGKILL else 0)
        ended = every_trial_ended_exactly_once(fleet, search)
    expected = {signal.SIGKILL: {"lost"}, signal.SIGTERM: set[str](), signal.SIGQUIT: {"released"}}[number]
    assert set(ended) <= expected and len(ended) <= 1, trial_id


def test_every_message_is_delivered_twice_at_the_same_moment(fleet: Fleet) -> None:
    class Twice:
        def ring(self, target: str, trial_id: str) -> None:
            for _ in range(2):
                fleet.bell.ring(target, trial_id)

    with coordinating(fleet.ledger, fleet.home, Twice()):
        search = submit(fleet.ledger, TRIALS)
        assert every_trial_ended_exactly_once(fleet, search) == []


def flush(fleet: Fleet) -> None:
    fleet.broker.client().flushall()


def restart_broker(fleet: Fleet) -> None:
    fleet.broker.kill()
    time.sleep(1.0)
    fleet.broker.start()


def restart_database(fleet: Fleet) -> None:
    fleet.database.stop()
    time.sleep(0.5)
    fleet.database.start()


def kill_database(fleet: Fleet) -> None:
    fleet.database.kill()
    fleet.database.start()


@pytest.mark.parametrize("disturb", [flush, restart_broker, restart_database, kill_database])
def test_a_server_fails_in_the_middle(fleet: Fleet, disturb: Callable[[Fleet], None]) -> None:
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit(fleet.ledger, TRIALS)
        fleet.wait_for(search, 3)
        disturb(fleet)
        assert set(every_trial_ended_exactly_once(fleet, search)) <= {"lost", "released"}


def test_a_coordinator_is_killed_and_another_goes_on(fleet: Fleet) -> None:
    first = part("coordinator", fleet.url, fleet.broker.url, fleet.home, "first")
    try:
        search = submit(fleet.ledger, TRIALS)
        fleet.wait_for(search, 3)
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait(10)
    assert fleet.ledger.search(search.id).status == "running"
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        assert every_trial_ended_exactly_once(fleet, search) == []


def test_two_coordinators_share_the_searches_and_none_is_run_by_both(fleet: Fleet) -> None:
    searches = [submit(fleet.ledger, TRIALS) for _ in range(2)]
    with (
        coordinating(fleet.ledger, fleet.home, fleet.bell) as one,
        closing(Ledger(fleet.url)) as ledger,
        coordinating(ledger, fleet.home, fleet.bell) as other,
    ):
        for search in searches:
            assert every_trial_ended_exactly_once(fleet, search) == []
        wait_until(lambda: one.coordinated + other.coordinated == len(searches), 10)


def test_a_search_that_is_cancelled_ends_and_its_trials_stop(fleet: Fleet) -> None:
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit(fleet.ledger, 200)
        fleet.wait_for(search, 2)
        fleet.ledger.request_cancel(search.id)
        wait_until(lambda: fleet.ledger.search(search.id).status != "running", 20)
    assert fleet.ledger.search(search.id).status == "cancelled"
    wait_until(lambda: all(step[2] != "RUNNING" for step in fleet.ledger.progress(search.id)), 20)


def test_a_small_search_is_not_held_up_by_a_large_one(fleet: Fleet) -> None:
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        large = submit(fleet.ledger, 300)
        fleet.wait_for(large, 4)
        small, before = submit(fleet.ledger, TRIALS), fleet.done(large)
        every_trial_ended_exactly_once(fleet, small)
        meanwhile = fleet.done(large) - before
        fleet.ledger.request_cancel(large.id)
        wait_until(lambda: fleet.ledger.search(large.id).status != "running", 20)
    assert 0 < meanwhile <= 2 * TRIALS, "equal weights get about equal shares"
