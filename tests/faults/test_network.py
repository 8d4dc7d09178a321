"""Workers that the network cuts off, messages that come again too early, and clocks that jump: nothing is lost."""

from __future__ import annotations

import signal
import time

import pytest

from scripts.servers import wait_until
from tests.faults.coordinating import coordinating, submit, submit_small
from tests.faults.fleet import Fleet, outcome_of
from tests.faults.sleeping import part

# Seconds: a message is delivered again; a server's silence is noticed.
VISIBILITY, SILENT, STALLED = 5.0, 2.0, 2.0
SET = {"forward": signal.SIGUSR1, "back": signal.SIGUSR2}
WORKERS = {name: {"visibility_s": VISIBILITY, "silent_s": SILENT, "stalled_s": STALLED} for name in ("a", "b")}


def every_worker_works_again(fleet: Fleet) -> None:
    """Have searches tried until both workers have taken a trial."""
    working: set[str] = set()
    deadline = time.monotonic() + 60
    while working != fleet.present_ids() and time.monotonic() < deadline:
        search = submit_small(fleet.ledger)
        outcome_of(fleet, search)
        working |= {attempt.owner for attempts in fleet.attempts(search) for attempt in attempts}
    assert working == fleet.present_ids()


def test_a_worker_is_cut_off_from_the_broker(fleet: Fleet) -> None:
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit_small(fleet.ledger)
        _, name = fleet.busy(search)
        fleet.to_broker[name].cut()
        assert outcome_of(fleet, search).in_vain == [], "it finishes its trial, the other one does the rest"
        fleet.to_broker[name].heal(reset=True)
        every_worker_works_again(fleet)


def test_a_worker_is_cut_off_from_the_ledger(fleet: Fleet) -> None:
    fleet.order(seconds=0.5)
    with coordinating(fleet.ledger, fleet.home, fleet.bell, lease_seconds=5.0):
        search = submit_small(fleet.ledger)
        trial_id, name = fleet.busy(search)
        fleet.to_database[name].cut()
        fleet.order()
        ended = outcome_of(fleet, search)
        assert set(ended.in_vain) == {"lost"}, "its lease runs out"
        first, *_, last = before = fleet.ledger.attempts(trial_id)
        assert first.ended_how == "lost" and first.owner != last.owner
        fleet.to_database[name].heal()
        every_worker_works_again(fleet)
    assert fleet.ledger.attempts(trial_id) == before, "what the one that was cut off still says is refused"


def test_everybody_is_cut_off_from_everything_for_a_while(fleet: Fleet) -> None:
    with coordinating(fleet.ledger, fleet.home, fleet.bell, lease_seconds=3.0):
        search = submit_small(fleet.ledger)
        fleet.wait_for(search, 2)
        proxies = (*fleet.to_broker.values(), *fleet.to_database.values())
        for proxy in proxies:
            proxy.cut()
        time.sleep(1.0)
        for proxy in proxies:
            proxy.heal()
        assert set(outcome_of(fleet, search).in_vain) <= {"lost"}


def test_a_message_that_comes_again_while_its_trial_runs_changes_nothing(fleet: Fleet) -> None:
    fleet.order(seconds=0.75 * VISIBILITY)

    def put() -> int:
        said = fleet.broker.client().info("commandstats")
        return int(said.get("cmdstat_rpush", {"calls": 0})["calls"])

    before = put()
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit(fleet.ledger, 1)
        ended = outcome_of(fleet, search)
    assert ended.in_vain == []
    wait_until(lambda: put() > before, 2 * VISIBILITY)


@pytest.mark.parametrize(("workers", "coordinators"), [("forward", "back"), ("back", "forward")])
def test_the_clocks_of_a_worker_and_of_the_coordinator_jump_by_a_day(
    fleet: Fleet, workers: str, coordinators: str
) -> None:
    coordinator = part("coordinator", fleet.url, fleet.broker.url, fleet.home, "set")
    try:
        search = submit_small(fleet.ledger)
        _, name = fleet.busy(search)
        fleet.processes[name].send_signal(SET[workers])
        coordinator.send_signal(SET[coordinators])
        assert outcome_of(fleet, search).in_vain == [], "nobody loses a trial, or takes one from somebody"
        every_worker_works_again(fleet)
    finally:
        coordinator.send_signal(signal.SIGTERM)
        assert coordinator.wait(20) == 0
