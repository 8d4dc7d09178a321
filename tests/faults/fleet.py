"""A fleet for tests: worker processes behind pieces of network that can be cut, on real servers."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from scripts.servers import PostgreSql, Redis, wait_until
from search.fleet_api import _bell
from tests.faults.checks import front_of, problems_of
from tests.faults.proxy import Proxy
from tests.faults.sandboxed import damaged_bundles
from tests.faults.sleeping import part
from workers.ledger import Ledger
from workers.records import AttemptRecord, SearchRecord, TrialRecord


class Ended(NamedTuple):
    """How a search ended: its trials, its front, and how those attempts ended that found nothing."""

    trials: tuple[TrialRecord, ...]
    front: list[str]
    in_vain: list[str]

    @property
    def kinds(self) -> dict[str, str]:
        """How each candidate ended, by its hash."""
        outcomes = {trial.candidate_hash: trial.outcome for trial in self.trials}
        return {key: str(each.failure.kind if each.failure else each.kind) for key, each in outcomes.items() if each}


class Fleet:
    """Worker processes on a real broker and a real database; those that were killed are started again.

    Args:
        workers: their settings by name, see ``tests.faults.sleeping``.
        within: the command that starts a worker, by its name.
    """

    def __init__(
        self, database: PostgreSql, broker: Redis, home: Path, workers: Mapping[str, Mapping[str, Any]], *,
        within: Mapping[str, list[str]] | None = None,
    ) -> None:  # fmt: skip
        self.database, self.broker, self.home = database, broker, home
        self.workers: dict[str, Mapping[str, Any]] = {}
        self.url = database.new_ledger()
        self.ledger = Ledger(self.url)
        self.bell = _bell(broker.url, self.ledger)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.to_broker: dict[str, Proxy] = {}
        self.to_database: dict[str, Proxy] = {}
        self._within = dict(within or {})
        self._stack = ExitStack()
        for name, settings in workers.items():
            self.add(name, settings)

    def add(self, name: str, settings: Mapping[str, Any]) -> None:
        """Count on one worker more from now on."""
        self.workers[name] = settings
        self.to_broker[name] = self._stack.enter_context(Proxy(self.broker.port))
        self.to_database[name] = self._stack.enter_context(Proxy(self.database.port))

    def order(self, **orders: object) -> None:
        """Tell the jobs that begin from now on what to do, see ``tests.faults.sandboxed``."""
        part = self.home / "orders.part"
        part.write_text(json.dumps(orders))
        part.replace(self.home / "orders.json")

    def start(self, name: str) -> None:
        """Start a worker."""
        ledger = self.url.replace(f":{self.database.port}/", f":{self.to_database[name].port}/")
        broker = self.broker.url.replace(f":{self.broker.port}/", f":{self.to_broker[name].port}/")
        self.processes[name] = part("worker", ledger, broker, self.home, name, self._within.get(name, ()),
                                    **self.workers[name])  # fmt: skip

    def complete(self) -> None:
        """Mend the network, start the workers that are missing, and wait until all are there."""
        for proxy in (*self.to_broker.values(), *self.to_database.values()):
            proxy.heal()
        for name in self.workers:
            if name not in self.processes or self.processes[name].poll() is not None:
                self.start(name)
        wait_until(lambda: len(self.present_ids()) == len(self.processes))

    @property
    def pids(self) -> set[int]:
        """The processes of the workers."""
        return {process.pid for process in self.processes.values()}

    def present_ids(self) -> set[str]:
        """Return what the ledger calls the workers that are there."""
        return {worker.id for worker in self.ledger.workers() if worker.pid in self.pids and worker.ended_at is None}

    def end(self) -> None:
        """End everything."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        self._stack.close()
        self.ledger.close()

    def done(self, search: SearchRecord) -> int:
        """Return how many trials of a search have ended."""
        return sum(step[2] == "DONE" for step in self.ledger.progress(search.id))

    def wait_for(self, search: SearchRecord, trials: int) -> None:
        """Block until so many trials of a search have ended."""
        wait_until(lambda: self.done(search) >= trials, 30)

    def busy(self, search: SearchRecord, name: str | None = None) -> tuple[str, str]:
        """Return a trial that runs, and the name of the worker that runs it; the one of this name if told."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for trial in self.ledger.trials(search.id):
                for worker, process in self.processes.items():
                    runs = trial.state == "RUNNING" and f":{process.pid}:" in (trial.owner or "")
                    if runs and name in (None, worker):
                        return trial.id, worker
            time.sleep(0.01)
        raise TimeoutError(f"no trial of {search.name} is run by {name or 'anybody'}")

    def jobs_of(self, name: str) -> list[psutil.Process]:
        """Return the processes of the jobs that a worker runs: children of the wardens, children of its fork server."""
        servers = psutil.Process(self.processes[name].pid).children()
        return [job for server in servers for warden in server.children() for job in warden.children()]

    def attempts(self, search: SearchRecord) -> list[list[AttemptRecord]]:
        """Return the attempts at each trial of a search."""
        return [list(self.ledger.attempts(trial.id)) for trial in self.ledger.trials(search.id)]


def outcome_of(fleet: Fleet, search: SearchRecord, seconds: float = 40) -> Ended:
    """Wait for a search's end, and check that every trial has ended exactly once and nothing half-made is left."""
    wait_until(lambda: fleet.ledger.search(search.id).status != "running", seconds)
    assert problems_of(fleet.ledger, search.id) == []
    assert damaged_bundles(fleet.home) == []
    trials = fleet.ledger.trials(search.id)
    ended = [attempt.ended_how for attempts in fleet.attempts(search) for attempt in attempts]
    return Ended(trials, front_of(trials), [str(how) for how in ended if how != "finished"])
