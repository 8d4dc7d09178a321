"""The database under the ledger: made once, kept through a kill, and refused where it is not ours."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from jobs_for_tests import MEASURED, PROFILE, candidate, together
from sqlalchemy import Connection

from evaluators.errors import InfrastructureError, UsageError
from scripts.servers import PostgreSql
from tests.faults.proxy import Proxy
from workers.database import Database, LedgerUnreachableError, ServerClock
from workers.ledger import Ledger
from workers.settings import TrialSettings


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


def test_a_ledger_of_version_2_is_brought_up_to_date(tmp_path: Path) -> None:
    with closing(Ledger.at(tmp_path)) as ledger:
        search = ledger.create_search("w.py:workload", {})
        trial = ledger.add_trial(search.id, candidate(), "sampled", "key")
        ledger.keep_settings(search.id, TrialSettings(profile=PROFILE))
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("DROP INDEX trials_by_target")
        connection.execute("ALTER TABLE trials DROP COLUMN target")
        connection.execute("DROP TABLE coordination")
        connection.execute("UPDATE ledger_schema SET version = 2")

    with closing(Ledger.at(tmp_path)) as ledger:
        assert ledger.queued("cpu") == (trial,)
        ledger.submit(search.id)
        assert [each.search_id for each in ledger.submitted()] == [search.id]
    with closing(Ledger.at(tmp_path)) as ledger:
        assert ledger.trial(trial.id) == trial


def test_a_database_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="neither sqlite nor postgresql"):
        Ledger("mssql+pyodbc://x/y")


class Losing:
    """Loses the connection so many times, each time after the change was made."""

    def __init__(self, database: Database, times: int) -> None:
        self._writing, self.times = database.writing, times

    @contextmanager
    def __call__(self) -> Iterator[Connection]:
        with self._writing() as connection:
            yield connection
        if self.times:
            self.times -= 1
            raise LedgerUnreachableError("the connection was lost")


@pytest.fixture
def losing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Losing:
    monkeypatch.setattr("workers.database.RETRY_PAUSES_S", (0.0,) * 3)
    losing = Losing(ledger._database, 0)
    monkeypatch.setattr(ledger._database, "writing", losing)
    return losing


def test_a_change_whose_answer_was_lost_is_made_once_and_known_as_made(ledger: Ledger, losing: Losing) -> None:
    losing.times = 1
    search = ledger.create_search("w.py:workload", {}, name="x")
    losing.times = 1
    trial = ledger.add_trial(search.id, candidate(), "sampled", "key")
    losing.times = 1
    assert ledger.claim(trial.id, 1, "me", 60)
    losing.times = 1
    assert ledger.finish(trial.id, 1, "me", MEASURED)
    losing.times = 1
    again = ledger.rerun(trial.id)
    ledger.claim(trial.id, 2, "me", 60)
    losing.times = 1
    assert ledger.release(trial.id, 2, "me")

    assert (again.attempt, len(ledger.trials(search.id)), len(ledger.searches())) == (2, 1, 1)
    assert [attempt.ended_how for attempt in ledger.attempts(trial.id)] == ["finished", "released"]
    assert [news.trial_number for news in ledger.pending(search.id)] == [None, 0], "the outcome is told once"


def test_a_trial_that_somebody_else_has_is_not_ours_because_the_connection_was_lost(
    ledger: Ledger, losing: Losing
) -> None:
    search = ledger.create_search("w.py:workload", {})
    trial = ledger.add_trial(search.id, candidate(), "sampled", "key")
    ledger.claim(trial.id, 1, "another", 60)
    losing.times = 1
    assert not ledger.claim(trial.id, 1, "me", 60)
    losing.times = 1
    assert not ledger.finish(trial.id, 1, "me", MEASURED)


def test_a_connection_that_stays_lost_is_an_infrastructure_error(ledger: Ledger, losing: Losing) -> None:
    search = ledger.create_search("w.py:workload", {})
    losing.times = 100
    with pytest.raises(InfrastructureError, match="the connection was lost"):
        ledger.request_cancel(search.id)
    assert losing.times == 100 - 4


def test_a_ledger_outlasts_a_restart_of_its_server(postgresql: PostgreSql) -> None:
    with closing(Ledger(postgresql.new_ledger())) as ledger:
        search = ledger.create_search("w.py:workload", {})
        for end in (postgresql.stop, postgresql.kill):
            end()
            starting = threading.Timer(0.5, postgresql.start)
            starting.start()
            assert ledger.search(search.id) == search
            starting.join()


def test_a_server_that_stops_answering_is_found_out(postgresql: PostgreSql, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.database.STALLED_SECONDS", 0.5)
    monkeypatch.setattr("workers.database.RETRY_PAUSES_S", (0.1, 0.1, 0.1))
    with Proxy(postgresql.port) as proxy:
        url = postgresql.new_ledger().replace(f":{postgresql.port}/", f":{proxy.port}/")
        with closing(Ledger(url)) as ledger:
            search = ledger.create_search("w.py:workload", {})
            proxy.cut()
            threading.Timer(1.0, proxy.heal).start()
            assert ledger.search(search.id) == search, "the query that nobody answers is given up and asked again"
            proxy.cut()
            monkeypatch.setattr("workers.database.RETRY_PAUSES_S", ())
            with pytest.raises(LedgerUnreachableError, match="server closed the connection"):
                ledger.request_cancel(search.id)
            proxy.heal(reset=True)
            assert ledger.search(search.id).status == "running"


def test_a_file_that_may_not_grow_keeps_what_it_has(ledger: Ledger) -> None:
    search = ledger.create_search("w.py:workload", {})
    trial = ledger.add_trial(search.id, candidate(), "sampled", "key")
    assert ledger.claim(trial.id, 1, "me", 60)
    huge = MEASURED.model_copy(update={"reproduce": "x" * 10**6})
    with ledger._database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    with pytest.raises(InfrastructureError, match="database or disk is full"):
        ledger.finish(trial.id, 1, "me", huge)

    assert (ledger.trial(trial.id).state, len(ledger.pending(search.id))) == ("RUNNING", 1)
    assert ledger.attempts(trial.id)[0].ended_how is None
    with ledger._database.reading() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1000000")
    assert ledger.finish(trial.id, 1, "me", huge)


def test_a_server_that_is_not_there_is_said_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.database.RETRY_PAUSES_S", ())
    with pytest.raises(InfrastructureError, match="Connection refused") as caught:
        Ledger("postgresql://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(caught.value)


def test_the_clock_of_the_server_is_carried_on_by_a_clock_that_nobody_sets() -> None:
    now, server = [0.0], [5000.0]

    def ask() -> float:
        if server[0] < 0:
            raise InfrastructureError("gone")
        return server[0]

    clock = ServerClock(ask, lambda: now[0])
    assert clock() == 5000.0
    now[0], server[0] = 30.0, 9999.0
    assert clock() == 5030.0, "asked once a minute"
    now[0], server[0] = 61.0, 5061.5
    assert clock() == 5061.5
    now[0], server[0] = 200.0, -1.0
    assert clock() == 5061.5 + 139.0, "what it said last is carried on"
    with pytest.raises(InfrastructureError, match="gone"):
        ServerClock(ask, lambda: 0.0)()


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


def test_processes_may_open_a_new_ledger_at_the_same_moment(tmp_path: Path) -> None:
    code = "import sys; from workers.ledger import Ledger; sys.stdin.readline(); Ledger(sys.argv[1]).close()"
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'ledger.db'}"]
    opening = [
        subprocess.Popen(command, stdin=subprocess.PIPE, cwd=Path(__file__).parents[2], text=True) for _ in range(6)
    ]
    for process in opening:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    assert [process.wait(60) for process in opening] == [0] * 6
