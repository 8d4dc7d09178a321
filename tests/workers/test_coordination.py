"""Searches as coordinators see them: one owner each, what was submitted, and who may queue the next trial."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from contextlib import closing
from pathlib import Path

import pytest
from jobs_for_tests import MEASURED, Clock, candidate, together

from evaluators.errors import UsageError
from workers.coordination import WISH_SECONDS
from workers.lease import SearchLease, wait_for
from workers.ledger import Ledger, join_fleet, joined_fleet
from workers.records import SearchRecord


@pytest.fixture
def ledger(ledger_at_clock: Ledger) -> Ledger:
    return ledger_at_clock


@pytest.fixture
def search(ledger: Ledger) -> SearchRecord:
    return ledger.create_search("w.py:workload", {})


def queue(ledger: Ledger, search: SearchRecord, number: int) -> None:
    ledger.add_trial(search.id, candidate(number), "sampled", "key")


def test_of_many_that_take_a_search_at_once_one_has_it(ledger: Ledger, search: SearchRecord) -> None:
    took: list[str] = []

    def take(owner: str) -> None:
        if ledger.take_search(search.id, owner, 30):
            took.append(owner)

    together(*[lambda owner=owner: take(owner) for owner in "abcd"])

    assert len(took) == 1
    found = ledger.coordinated(search.id)
    assert found is not None and (found.owner, found.submitted_at) == (took[0], None)


def test_a_search_is_kept_left_and_taken_from_who_is_silent_or_dead(
    ledger: Ledger, search: SearchRecord, clock: Clock
) -> None:
    assert ledger.take_search(search.id, "a", 30)
    clock.now += 20
    assert ledger.keep_search(search.id, "a", 30) and not ledger.keep_search(search.id, "b", 30)
    clock.now += 20
    assert not ledger.take_search(search.id, "b", 30)
    assert ledger.take_search(search.id, "b", 30, lambda owner: owner != "a"), "a is dead"
    assert not ledger.keep_search(search.id, "a", 30) and not ledger.leave_search(search.id, "a")
    clock.now += 31
    assert ledger.take_search(search.id, "c", 30), "b was silent"
    assert ledger.leave_search(search.id, "c")
    assert ledger.take_search(search.id, "d", 30)


def test_what_was_submitted_and_runs_is_listed_in_order(ledger: Ledger, search: SearchRecord, clock: Clock) -> None:
    later = ledger.create_search("w.py:workload", {})
    over = ledger.create_search("w.py:workload", {})
    local = ledger.create_search("w.py:workload", {})
    for number, each in enumerate((search, later, over)):
        clock.now += 1
        ledger.submit(each.id, weight=2.0, priority=number, most_unfinished=3)
    ledger.update_search(over.id, status="finished")
    ledger.take_search(local.id, "a", 30)

    found = ledger.submitted()
    assert [each.search_id for each in found] == [search.id, later.id]
    assert (found[1].weight, found[1].priority, found[1].most_unfinished) == (2.0, 1, 3)
    with pytest.raises(UsageError, match="no search 'nosuch'"):
        ledger.submit("nosuch")
    with pytest.raises(UsageError, match="above zero"):
        ledger.submit(search.id, weight=0.0)


def test_searches_take_turns_as_long_as_they_wish_to(ledger: Ledger, search: SearchRecord, clock: Clock) -> None:
    other = ledger.create_search("w.py:workload", {})
    for each in (search, other):
        assert ledger.take_search(each.id, f"coordinator of {each.id}", 600)
    clock.now += 1
    assert ledger.turn(search.id, {"cpu": 1}) == ("cpu",)
    queue(ledger, search, 0)
    assert ledger.turn(search.id, {"cpu": 1}) == ("cpu",)
    queue(ledger, search, 1)
    assert ledger.turn(search.id, {"cpu": 1}) == (), "one device, one more trial than that"
    assert ledger.turn(other.id, {"cpu": 1}) == (), "there is no room"
    assert ledger.claim(f"{search.id}/0", 1, "w", 60)
    assert ledger.finish(f"{search.id}/0", 1, "w", MEASURED)
    assert ledger.turn(search.id, {"cpu": 1}) == (), "the other one has none yet"
    assert ledger.turn(other.id, {"cpu": 1}) == ("cpu",)
    clock.now += WISH_SECONDS + 1
    assert ledger.turn(search.id, {"cpu": 1}) == ("cpu",), "the other one has not asked for long"


def test_unfinished_and_running_are_counted(ledger: Ledger, search: SearchRecord, clock: Clock) -> None:
    over = ledger.create_search("w.py:workload", {})
    killed = ledger.create_search("w.py:workload", {})
    for number in range(3):
        queue(ledger, search, number)
    for other in (over, killed):
        queue(ledger, other, 0)
        ledger.claim(f"{other.id}/0", 1, "x", 10)
    ledger.submit(search.id)
    ledger.submit(over.id)
    ledger.update_search(over.id, status="cancelled")
    ledger.take_search(killed.id, "k", 30)
    ledger.claim(f"{search.id}/0", 1, "w", 60)
    assert ledger.unfinished() == {search.id: {"cpu": 3}, killed.id: {"cpu": 1}}
    assert ledger.running_on() == {"cpu": 3}
    clock.now += 31
    assert ledger.unfinished() == {search.id: {"cpu": 3}}, "nobody coordinates the other one any more"
    assert ledger.running_on() == {"cpu": 1}
    assert [trial.search_id for trial in ledger.running()].count(search.id) == 1


def test_a_search_has_one_coordinator_and_says_which(tmp_path: Path) -> None:
    with closing(Ledger.at(tmp_path)) as ledger:
        first, second = (ledger.create_search("w.py:workload", {}).id for _ in range(2))
        script = f"""
            import time
            from pathlib import Path
            from workers.lease import SearchLease
            from workers.ledger import Ledger
            with SearchLease(Ledger.at(Path({str(tmp_path)!r})), {first!r}):
                print("held", flush=True)
                time.sleep(60)
        """
        command = [sys.executable, "-c", textwrap.dedent(script)]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"

        with pytest.raises(UsageError, match=f"search {first} is being run by process {holder.pid} since"):
            coordinate(ledger, first)
        with SearchLease(ledger, second):
            pass

        holder.kill()
        holder.wait()
        with SearchLease(ledger, first), pytest.raises(UsageError, match=f"process {os.getpid()}"):
            coordinate(ledger, first)


def test_a_coordinator_whose_search_was_taken_hears_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.lease.SEARCH_LEASE_SECONDS", 0.3)
    with closing(Ledger.at(tmp_path)) as ledger:
        search = ledger.create_search("w.py:workload", {}).id
        with SearchLease(ledger, search) as lease:
            assert not wait_for((lease.lost,), 0.5), "it renews"
            assert ledger.take_search(search, "another", 60, lambda owner: False)
            assert wait_for((lease.lost,), 5.0)
        found = ledger.coordinated(search)
    assert found is not None and found.owner == "another", "what is not ours is not given back"


def coordinate(ledger: Ledger, search: str) -> None:
    with SearchLease(ledger, search):
        raise AssertionError("two coordinators run one search")


def test_a_home_joins_one_fleet_and_keeps_it_in_mind(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fleet.db'}"
    home, own = tmp_path / "home", tmp_path / "own"
    assert joined_fleet(home) is None
    join_fleet(home, url)
    join_fleet(home, url)
    assert joined_fleet(home) == url
    assert (home / "ledger.url").stat().st_mode & 0o077 == 0, "the URL may hold a password"
    with closing(Ledger.at(home)) as ledger, closing(Ledger(url)) as fleet:
        assert ledger.create_search("w.py:workload", {}) in fleet.searches()
    with pytest.raises(UsageError, match="belongs to another fleet"):
        join_fleet(home, "postgresql://elsewhere/x")
    Ledger.at(own).close()
    with pytest.raises(UsageError, match="has a ledger of its own"):
        join_fleet(own, url)
