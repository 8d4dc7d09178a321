"""The database under the ledger: made once, kept through a kill, and refused where it is not ours."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from jobs_for_tests import MEASURED, candidate, together
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from evaluators.errors import InfrastructureError, UsageError
from workers.ledger import Ledger
from workers.tables import metadata


def test_many_open_a_new_ledger_at_once(tmp_path: Path) -> None:
    opened: list[Ledger] = []
    together(*[lambda: opened.append(Ledger.at(tmp_path / "home?#%"))] * 4)

    search = opened[0].create_search("w.py:workload", {}, name="x")
    assert [ledger.search("x") for ledger in opened] == [search] * 4


@pytest.mark.parametrize("url", ["nonsense", "nosuch://x"])
def test_a_wrong_url_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        Ledger(url)


def test_a_file_that_is_no_ledger_is_an_infrastructure_error(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_text("not a database, but quite long enough to be read as one" * 20)

    with pytest.raises(InfrastructureError, match=r"ledger\.db failed: file is not a database"):
        Ledger.at(tmp_path)


def test_a_ledger_of_another_version_is_refused(tmp_path: Path) -> None:
    Ledger.at(tmp_path).close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE ledger_schema SET version = 99")

    with pytest.raises(InfrastructureError, match="schema version 99"):
        Ledger.at(tmp_path)


def test_the_tables_exist_on_postgresql_too() -> None:
    for table in metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))


def test_what_was_committed_outlives_a_kill(tmp_path: Path) -> None:
    script = f"""
        from pathlib import Path
        from jobs_for_tests import MEASURED, candidate
        from workers.ledger import Ledger
        ledger = Ledger.at(Path({str(tmp_path)!r}))
        search = ledger.create_search("w.py:workload", {{}}, name="killed")
        for number in range(10_000):
            trial = ledger.add_trial(search.id, candidate(number), "sampled", "key")
            ledger.claim(trial.id, 1, "writer", 60)
            ledger.finish(trial.id, 1, "writer", MEASURED)
            print(number, flush=True)
    """
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        while writer.stdout.readline().strip() != "20":
            assert writer.poll() is None
        os.kill(writer.pid, signal.SIGKILL)
        last = max([20, *(int(line) for line in writer.stdout.read().split())])

    ledger = Ledger.at(tmp_path)
    trials = ledger.trials(ledger.search("killed").id)
    assert len(trials) >= last + 1
    assert all(trial.outcome == MEASURED for trial in trials[: last + 1])
    posted = {news.trial_number for news in ledger.pending()} - {None}
    assert posted == {trial.number for trial in trials if trial.state == "DONE"}
    assert ledger.add_trial(trials[0].search_id, candidate(20_000), "sampled", "key").number == len(trials)
