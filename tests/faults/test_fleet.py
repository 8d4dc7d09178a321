"""The fault matrix of a fleet: parts and servers die or restart, messages come twice; every trial ends exactly once."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import closing

import pytest

from scripts.servers import wait_until
from tests.faults.conftest import PAIR
from tests.faults.coordinating import coordinating, submit, submit_small
from tests.faults.fleet import Ended, Fleet, outcome_of
from tests.faults.sleeping import part
from workers.ledger import Ledger


@pytest.fixture(scope="module")
def undisturbed(running: Fleet) -> Ended:
    """How the search that the tests disturb ends by itself."""
    running.order()
    running.complete()
    with coordinating(running.ledger, running.home, running.bell):
        search, most = submit_small(running.ledger), 0
        while running.ledger.search(search.id).status == "running":
            most = max(most, sum(step[2] != "DONE" for step in running.ledger.progress(search.id)))
            time.sleep(0.01)
    assert most <= len(PAIR) + 1, "one more is queued than there are devices"
    return outcome_of(running, search)


def test_the_undisturbed_fleet_tries_the_whole_space_and_shares_the_work(fleet: Fleet, undisturbed: Ended) -> None:
    assert set(undisturbed.kinds.values()) == {"measured"} and len(undisturbed.kinds) >= 8
    assert undisturbed.in_vain == []
    owners = {attempt.owner for trial in undisturbed.trials for attempt in fleet.ledger.attempts(trial.id)}
    assert len(owners) == len(PAIR), "both worked"
    assert 1 < len(undisturbed.front) < len(undisturbed.trials)


def same(ended: Ended, undisturbed: Ended) -> bool:
    """Whether a search found what it finds undisturbed."""
    return ended.kinds == undisturbed.kinds and ended.front == undisturbed.front


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_is_killed_drained_or_sent_away(fleet: Fleet, undisturbed: Ended, number: signal.Signals) -> None:
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit_small(fleet.ledger)
        _, name = fleet.busy(search)
        fleet.processes[name].send_signal(number)
        assert fleet.processes[name].wait(20) == (-number if number == signal.SIGKILL else 0)
        ended = outcome_of(fleet, search)
    expected = {signal.SIGKILL: {"lost"}, signal.SIGTERM: set[str](), signal.SIGQUIT: {"released"}}[number]
    assert set(ended.in_vain) <= expected and len(ended.in_vain) <= 1
    assert same(ended, undisturbed)


def test_every_message_is_delivered_twice_at_the_same_moment(fleet: Fleet, undisturbed: Ended) -> None:
    class Twice:
        def ring(self, target: str, trial_id: str) -> None:
            for _ in range(2):
                fleet.bell.ring(target, trial_id)

    with coordinating(fleet.ledger, fleet.home, Twice()):
        ended = outcome_of(fleet, submit_small(fleet.ledger))
    assert ended.in_vain == [] and same(ended, undisturbed)


def flush(fleet: Fleet) -> None:
    fleet.broker.client().flushall()


def kill_broker(fleet: Fleet) -> None:
    fleet.broker.kill()
    time.sleep(1.0)
    fleet.broker.start()
    assert not fleet.broker.client().get("kept"), "nothing that it held is left"


def kill_durable_broker(fleet: Fleet) -> None:
    fleet.broker.keep(True)
    fleet.broker.client().set("kept", 1)
    fleet.broker.kill()
    fleet.broker.start()
    assert fleet.broker.client().delete("kept"), "all that it held is still there"
    fleet.broker.keep(False)


def restart_database(fleet: Fleet) -> None:
    fleet.database.stop()
    time.sleep(0.5)
    fleet.database.start()


def kill_database(fleet: Fleet) -> None:
    fleet.database.kill()
    fleet.database.start()


@pytest.mark.parametrize("disturb", [flush, kill_broker, kill_durable_broker, restart_database, kill_database])
def test_a_server_fails_in_the_middle(fleet: Fleet, undisturbed: Ended, disturb: Callable[[Fleet], None]) -> None:
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit_small(fleet.ledger)
        fleet.wait_for(search, 3)
        disturb(fleet)
        ended = outcome_of(fleet, search)
    assert set(ended.in_vain) <= {"lost", "released"} and same(ended, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_coordinator_is_killed_and_another_goes_on(fleet: Fleet, undisturbed: Ended, number: signal.Signals) -> None:
    first = part("coordinator", fleet.url, fleet.broker.url, fleet.home, "first")
    try:
        search = submit_small(fleet.ledger)
        fleet.wait_for(search, 3)
    finally:
        first.send_signal(number)
        assert first.wait(20) == (-number if number == signal.SIGKILL else 0)
    assert fleet.ledger.search(search.id).status == "running"
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        ended = outcome_of(fleet, search)
    assert ended.in_vain == [] and same(ended, undisturbed)


def test_two_coordinators_share_the_searches_and_none_is_run_by_both(fleet: Fleet, undisturbed: Ended) -> None:
    searches = [submit_small(fleet.ledger) for _ in range(2)]
    with (
        coordinating(fleet.ledger, fleet.home, fleet.bell) as one,
        closing(Ledger(fleet.url)) as ledger,
        coordinating(ledger, fleet.home, fleet.bell) as other,
    ):
        for search in searches:
            ended = outcome_of(fleet, search)
            assert ended.in_vain == [] and same(ended, undisturbed)
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
        small, before = submit_small(fleet.ledger), fleet.done(large)
        few = len(outcome_of(fleet, small).trials)
        meanwhile = fleet.done(large) - before
        fleet.ledger.request_cancel(large.id)
        wait_until(lambda: fleet.ledger.search(large.id).status != "running", 20)
    assert 0 < meanwhile <= 2 * few, "equal weights get about equal shares"
