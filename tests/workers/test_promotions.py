"""Promotions in the ledger: added to and never changed, also in a ledger that is older than they are."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from jobs_for_tests import until

from evaluators.errors import InfrastructureError
from workers.lease import registry_lock
from workers.ledger import Ledger


def test_steps_come_back_in_order_and_by_alias(ledger: Ledger) -> None:
    ledger.add_alias_step("shop", "champion", "promoted", 1, None, "trial a/1")
    ledger.add_alias_step("shop", "canary", "promoted", 2, None, "trial a/2")
    ledger.add_alias_step("shop", "champion", "rolled_back", 1, 2, "back")
    ledger.add_alias_step("other", "champion", "removed", None, 3, "by hand")
    assert [step.version for step in ledger.alias_steps("shop")] == [1, 2, 1]
    assert [step.event for step in ledger.alias_steps("shop", "champion")] == ["promoted", "rolled_back"]
    assert len(ledger.alias_steps()) == 4


def test_the_latest_certificate_of_a_version_counts(ledger: Ledger) -> None:
    assert ledger.certificate("shop", 1) is None
    ledger.certify("shop", 1, "a" * 64, {"trial": 1})
    ledger.certify("shop", 1, "b" * 64, {"trial": 2})
    ledger.certify("shop", 2, "c" * 64, {"trial": 3})
    found = ledger.certificate("shop", 1)
    assert found is not None and (found.digest, found.certificate) == ("b" * 64, {"trial": 2})


def test_a_ledger_from_before_promotions_gets_their_tables(tmp_path: Path) -> None:
    with closing(Ledger.at(tmp_path)) as ledger:
        ledger.create_search("w.py:workload", {}, name="kept")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as database:
        database.executescript("DROP TABLE certificates; DROP TABLE alias_steps")
    with closing(Ledger.at(tmp_path)) as ledger:
        ledger.certify("shop", 1, "a" * 64, {})
        assert ledger.search("kept").name == "kept" and ledger.alias_steps() == ()


def test_who_moves_aliases_of_a_model_is_alone_and_others_are_told(ledger: Ledger) -> None:
    told, done = threading.Event(), threading.Event()

    def other() -> None:
        with registry_lock(ledger, "shop", waiting=told.set):
            done.set()

    with registry_lock(ledger, "shop"):
        thread = threading.Thread(target=other)
        thread.start()
        assert told.wait(10)
        assert not done.is_set()
        with registry_lock(ledger, "another"):
            pass
    thread.join(10)
    assert done.is_set()


def test_what_a_dead_process_held_is_free_at_once_and_what_a_silent_one_held_after_its_lease(ledger: Ledger) -> None:
    assert ledger.take_hold("shop", "one", 60) and not ledger.take_hold("shop", "two", 60)
    assert ledger.take_hold("shop", "two", 0.0, is_alive=lambda owner: owner != "one")
    assert not ledger.keep_hold("shop", "one", 60), "it is told that it holds nothing any more"
    assert ledger.take_hold("shop", "three", 60)
    ledger.leave_hold("shop", "two")
    assert not ledger.take_hold("shop", "four", 60), "only the owner gives it back"
    ledger.leave_hold("shop", "three")
    assert ledger.take_hold("shop", "four", 60)


def test_a_block_whose_hold_was_taken_meanwhile_fails(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.holds.LEASE_SECONDS", 0.3)

    def block() -> None:
        with registry_lock(ledger, "shop"):
            assert ledger.take_hold("registry shop", "somebody", 60, is_alive=lambda owner: False)
            until(lambda: not any(thread.name == "hold registry shop" for thread in threading.enumerate()), 10)

    with pytest.raises(InfrastructureError, match="was taken by somebody else meanwhile"):
        block()
