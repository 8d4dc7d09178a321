"""Two workers never measure on one device at once, and a trial never runs on a target that does not match."""

from __future__ import annotations

import pytest

from scripts.servers import wait_until
from tests.faults.checks import overlapping
from tests.faults.coordinating import coordinating, submit_sizes, submit_small
from tests.faults.fleet import Fleet, outcome_of
from tests.faults.sandboxed import intervals
from tests.faults.sleeping import GPU, TARGET
from workers.celery_app import KEY_PREFIX
from workers.records import SearchRecord

WORKERS = {
    **{f"gpu{number}{twin}": {"target": GPU, "device": f"cuda:{number}"} for number in (0, 1) for twin in "ab"},
    "cpu": {"target": TARGET},
}


@pytest.fixture(autouse=True)
def fresh(fleet: Fleet) -> None:
    (fleet.home / "intervals.jsonl").unlink(missing_ok=True)


def whose(fleet: Fleet, search: SearchRecord) -> dict[str, set[str]]:
    """Return the names of the workers that had trials of a search, by the target of these trials."""
    names = {worker.id: worker.name for worker in fleet.ledger.workers()}
    found: dict[str, set[str]] = {}
    for trial in fleet.ledger.trials(search.id):
        owners = {names[attempt.owner] for attempt in fleet.ledger.attempts(trial.id)}
        found[trial.candidate.target] = found.get(trial.candidate.target, set()) | owners
    return found


def test_four_workers_on_two_devices_measure_one_at_a_time_on_each(fleet: Fleet) -> None:
    fleet.order(seconds=0.5)
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit_sizes(fleet.ledger, 8)
        ended = outcome_of(fleet, search)
    measured = intervals(fleet.home)
    assert whose(fleet, search) == {GPU: {"gpu0a", "gpu0b", "gpu1a", "gpu1b"}}
    assert len(measured) > len(ended.trials), "and the final comparison"
    assert {each["device"] for each in measured} == {"0", "1"}
    assert overlapping(measured) == []


def test_messages_in_the_queue_of_another_target_are_not_answered(fleet: Fleet) -> None:
    class Astray:
        def ring(self, target: str, trial_id: str) -> None:
            for queue in (TARGET, GPU):
                fleet.bell.ring(queue, trial_id)

    with coordinating(fleet.ledger, fleet.home, Astray()):
        searches = [submit_small(fleet.ledger), submit_sizes(fleet.ledger, 9)]
        for search in searches:
            assert outcome_of(fleet, search).in_vain == []
    served = whose(fleet, searches[0]) | whose(fleet, searches[1])
    assert served[TARGET] == {"cpu"} and served[GPU] <= set(WORKERS) - {"cpu"}
    client = fleet.broker.client()
    wait_until(lambda: all(client.llen(f"{KEY_PREFIX}{target}") == 0 for target in (TARGET, GPU)), 10)


def test_a_machine_of_another_kind_under_the_same_name_gets_no_trial(fleet: Fleet) -> None:
    with coordinating(fleet.ledger, fleet.home, fleet.bell):
        search = submit_small(fleet.ledger)
        fleet.wait_for(search, 1)
        fleet.add("impostor", {"target": TARGET, "cores": 64, "device": "sleep:impostor"})
        fleet.complete()
        assert outcome_of(fleet, search).in_vain == []
    assert whose(fleet, search) == {TARGET: {"cpu"}}
