"""Promotions in the ledger: added to and never changed, also in a ledger that is older than they are."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from workers.ledger import Ledger
from workers.locks import registry_lock


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


def test_who_moves_aliases_of_a_model_is_alone_and_others_are_told(tmp_path: Path) -> None:
    told, done = threading.Event(), threading.Event()

    def other() -> None:
        with registry_lock(tmp_path, "shop", waiting=told.set):
            done.set()

    with registry_lock(tmp_path, "shop"):
        thread = threading.Thread(target=other)
        thread.start()
        assert told.wait(10)
        assert not done.is_set()
        with registry_lock(tmp_path, "another"):
            pass
    thread.join(10)
    assert done.is_set()
