"""Service: coordinates every search that was left to a fleet, each in a thread, until it is asked to leave.

Nothing that matters is in its memory: another one, on any machine, goes on where it stopped.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from structlog.contextvars import bound_contextvars

from evaluators.errors import InfrastructureError, IntegrityError, ParetuneError, UsageError
from search.coordinator import Coordinator, FleetMeans
from search.delivery import deliver_ended
from search.presence import Presence
from search.result import TrialCounts, TrialResult
from workers.lease import SearchTakenError, owner_is_alive, wait_for
from workers.ledger import Ledger
from workers.records import CoordinationRecord, SearchRecord
from workers.repeated import Repeated

LOOK_SECONDS = 0.5
"""How often it is looked for searches to take."""

RETRY_SECONDS = 5.0
"""How long a search is left alone after its coordinator failed."""

DELIVERY_SECONDS = 30.0
"""How often it is looked for ended searches of which MLflow has missed something."""

MOST_FAILURES = 3
"""After so many failures in a row that are nobody's outage, a search is given up."""


class Spoken:
    """Tells what a search does in lines of text, for a log."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say = name, say

    def started(self, number: int, label: str) -> None:
        """Say that a trial runs."""
        self._say(f"{self._name}: trial {number} runs: {label}")

    def finished(self, trial: TrialResult, counts: TrialCounts, best: TrialResult | None) -> None:
        """Say how a trial ended."""
        self._say(f"{self._name}: trial {trial.number} {trial.outcome}, {counts.total} in all")

    def note(self, text: str) -> None:
        """Say what else happened."""
        self._say(f"{self._name}: {text}")


class Service:
    """Takes the searches of a fleet that nobody coordinates, and sees each through.

    Args:
        ledger: the fleet's.
        home: the folder that coordinators and workers share.
        means: how the trials of searches are brought to workers; its ``leave`` ends the service.
        say: told what happens, in words.
        alive: called every second or so, each time after the ledger was looked into.
    """

    def __init__(
        self, ledger: Ledger, home: Path, means: FleetMeans, say: Callable[[str], None],
        alive: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        self._ledger, self._home, self._say, self._alive = ledger, home, say, alive
        self._means = means if means.presence else replace(means, presence=Presence(ledger))
        self._threads: dict[str, threading.Thread] = {}
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._said: set[str] = set()
        self.coordinated = 0

    def run(self) -> int:
        """Coordinate until ``leave`` is set, and return how many searches were seen to their end."""
        with Repeated(self._deliver, DELIVERY_SECONDS, "paretune-delivery"):
            while not self._means.leave.is_set:
                try:
                    self._look()
                    self._alive()
                except InfrastructureError as error:
                    self._say(f"{error}; trying again in {RETRY_SECONDS:g} s")
                    wait_for((self._means.leave,), RETRY_SECONDS)
                wait_for((self._means.leave,), LOOK_SECONDS)
        for thread in self._threads.values():
            thread.join()
        return self.coordinated

    def _look(self) -> None:
        self._threads = {name: thread for name, thread in self._threads.items() if thread.is_alive()}
        for share in self._ledger.submitted():
            mine = share.search_id in self._threads
            if not mine and self._is_free(share) and time.monotonic() >= self._not_before.get(share.search_id, 0.0):
                record = self._ledger.search(share.search_id)
                thread = threading.Thread(target=self._coordinate, args=(record,), name=f"search {record.name}")
                self._threads[share.search_id] = thread
                thread.start()

    def _is_free(self, share: CoordinationRecord) -> bool:
        """Whether nobody seems to have a search; who takes it is settled by the lease."""
        gone = share.lease_until is None or share.lease_until <= self._ledger.now()
        return share.owner is None or gone or not owner_is_alive(share.owner)

    def _coordinate(self, record: SearchRecord) -> None:
        """See one search through; whatever goes wrong with it, the others go on."""
        with bound_contextvars(search=record.id):
            self._see_through(record)

    def _see_through(self, record: SearchRecord) -> None:
        coordinator = Coordinator(self._ledger, self._home, record, Spoken(record.name, self._say),
                                  fleet=self._means)  # fmt: skip
        self._say(f"{record.name}: taken")
        try:
            coordinator.run()
            self._failures.pop(record.id, None)
            if not self._means.leave.is_set:
                self.coordinated += 1
                self._say(f"{record.name}: done")
        except SearchTakenError:
            self._say(f"{record.name}: another coordinator was quicker")
        except (UsageError, IntegrityError) as error:
            self._give_up(coordinator, record, str(error))
        except InfrastructureError as error:
            self._not_before[record.id] = time.monotonic() + RETRY_SECONDS
            self._say(f"{record.name}: {error}; trying again in {RETRY_SECONDS:g} s")
        except Exception as error:
            self._failures[record.id] = self._failures.get(record.id, 0) + 1
            self._not_before[record.id] = time.monotonic() + RETRY_SECONDS
            self._say(f"{record.name}: {traceback.format_exc()}")
            if self._failures[record.id] >= MOST_FAILURES:
                self._give_up(coordinator, record, f"the coordinator failed {MOST_FAILURES} times: {error!r}")

    def _deliver(self) -> bool:
        """Tell MLflow what it has missed of searches that have ended; where it is away, the next time."""
        for search_id in self._ledger.ended_pending():
            if self._means.leave.is_set:
                break
            try:
                if not deliver_ended(self._ledger, self._home, search_id, self._say_once):
                    break
                self._say(f"MLflow has all of search {search_id}")
            except SearchTakenError:
                continue
            except (ParetuneError, OSError) as error:
                self._say_once(f"search {search_id} cannot be shown in MLflow: {error}")
        return True

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    def _give_up(self, coordinator: Coordinator, record: SearchRecord, problem: str) -> None:
        self._say(f"{record.name}: {problem}")
        try:
            coordinator.give_up(problem)
        except InfrastructureError as error:
            self._not_before[record.id] = time.monotonic() + RETRY_SECONDS
            self._say(f"{record.name}: {error}")
