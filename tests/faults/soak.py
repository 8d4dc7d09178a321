"""The soak: many short trials, many random faults, and then: nothing lost, nothing doubled, nothing left over.

``python -m tests.faults.soak --trials 1000 --faults 200 --seed 1``, or ``make soak``. Real PostgreSQL, Valkey, Celery
workers, sandboxes and two coordinators, on this machine; what jobs do is in ``tests.faults.sandboxed``. Exit code 1 if
anything that must hold does not. The order of faults and the pauses between them follow from the seed; what they hit is
up to the moment.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.results import record
from evaluators.errors import ParetuneError
from scripts.servers import PostgreSql, Redis
from tests.faults.checks import GRACE_SECONDS, front_of, overdue, overlapping, problems_of
from tests.faults.coordinating import submit_small
from tests.faults.fleet import Fleet
from tests.faults.sandboxed import damaged_bundles, intervals
from tests.faults.sleeping import part
from workers.records import SearchRecord

DEVICES = ("sleep:0", "sleep:1")
QUICK = {"stalled_s": 2.0, "retry_s": 0.5}
WORKERS = {
    f"{device[-1]}{twin}": {"device": device, "visibility_s": 5.0, "silent_s": 2.0, **QUICK}
    for device in DEVICES for twin in "ab"
}  # fmt: skip
LEASE_SECONDS = 5.0
JOB_SECONDS = 0.2
PATIENCE_SECONDS = 120.0
"""So long the searches that have begun may take after the last fault."""

AT_ONCE = 4
"""Searches that are left to the fleet at a time."""
PER_SEARCH = 36
"""Trials of one search: all candidates of its space, so that each search has the same front."""
BATCH_SIZES = "1,2,4,8"


@dataclass
class Told:
    """What was seen while it ran."""

    faults: Counter[str] = field(default_factory=Counter)
    in_time: int = 0
    """Faults while there were trials to disturb."""
    overdue: set[str] = field(default_factory=set)


class Soak:
    """A fleet, its two coordinators, and the faults that befall them, one at a time or on top of each other."""

    def __init__(self, fleet: Fleet, chance: random.Random, searches: int) -> None:
        self._fleet, self._chance, self.told = fleet, chance, Told()
        self._wanted, self.searches = searches, list[SearchRecord]()
        self._coordinators: dict[str, subprocess.Popen[bytes]] = {}
        self._over, self._late = threading.Event(), threading.Event()
        self._healing: list[threading.Timer] = []
        self.faults: tuple[Callable[[], None], ...] = (
            self.kill_worker, self.kill_worker, self.term_worker, self.kill_sandbox, self.kill_sandbox,
            self.term_sandbox, self.kill_coordinator, self.term_coordinator, self.kill_broker, self.kill_durable_broker,
            self.flush_broker, self.restart_database, self.kill_database, self.ring_twice, self.ring_twice,
            self.cut_from_broker, self.cut_from_database, self.set_clock,
        )  # fmt: skip

    def run(self, faults: int, pause_s: float, limit_s: float) -> None:
        """Do so many faults with pauses of about ``pause_s``, and wait until every search has ended.

        After ``limit_s`` neither faults nor searches are begun.
        """
        limit = threading.Timer(limit_s, self._late.set)
        limit.daemon = True
        limit.start()
        keeping = threading.Thread(target=self._keep, daemon=True)
        keeping.start()
        while self.told.faults.total() < faults:
            if self._late.wait(self._chance.uniform(0.2, 1.8) * pause_s):
                break
            with suppress(psutil.Error, ProcessLookupError, IndexError):
                fault = self._chance.choice(self.faults)
                fault()
                self.told.faults[fault.__name__.replace("_", " ")] += 1
                self.told.in_time += self._more or self._unfinished() > 0
        while self._more:
            time.sleep(0.5)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline and self._unfinished():
            time.sleep(0.5)
        limit.cancel()
        self._over.set()
        keeping.join(60)
        for timer in self._healing:
            timer.join()

    def end(self) -> None:
        """End the coordinators."""
        for process in self._coordinators.values():
            process.send_signal(signal.SIGTERM)
        for process in self._coordinators.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()

    @property
    def _more(self) -> bool:
        """Whether there are searches to begin."""
        return len(self.searches) < self._wanted and not self._late.is_set()

    def _unfinished(self) -> int:
        """Return how many of the searches that were left to the fleet run still."""
        with suppress(ParetuneError):
            return sum(self._fleet.ledger.search(search.id).status == "running" for search in self.searches)
        return AT_ONCE

    def _keep(self) -> None:
        """Start again what has ended, as a service manager would, submit, and look for trials that run for too long."""
        while not self._over.wait(0.3):
            for name in ("north", "south"):
                if name not in self._coordinators or self._coordinators[name].poll() is not None:
                    self._coordinators[name] = part("coordinator", self._fleet.url, self._fleet.broker.url,
                                                    self._fleet.home, name, lease_seconds=LEASE_SECONDS,
                                                    **QUICK)  # fmt: skip
            for name in WORKERS:
                if name not in self._fleet.processes or self._fleet.processes[name].poll() is not None:
                    self._fleet.start(name)
            with suppress(ParetuneError):
                if self._more and self._unfinished() < AT_ONCE:
                    self.searches.append(submit_small(self._fleet.ledger, BATCH_SIZES))
                self.told.overdue |= set(overdue(self._fleet.ledger.running(), self._fleet.ledger.now()))

    def _worker(self) -> subprocess.Popen[bytes]:
        return self._fleet.processes[self._chance.choice(sorted(WORKERS))]

    def kill_worker(self) -> None:
        self._worker().kill()

    def term_worker(self) -> None:
        self._worker().terminate()

    def _sandbox(self) -> psutil.Process:
        """Return one of the jobs, the next one where there is none at the moment."""
        deadline = time.monotonic() + 3.0
        while time.monotonic() < deadline:
            with suppress(psutil.Error):
                if jobs := [job for name in sorted(WORKERS) for job in self._fleet.jobs_of(name)]:
                    return self._chance.choice(jobs)
            time.sleep(0.02)
        raise IndexError("no job runs")

    def kill_sandbox(self) -> None:
        self._sandbox().kill()

    def term_sandbox(self) -> None:
        self._sandbox().terminate()

    def kill_coordinator(self) -> None:
        self._coordinators[self._chance.choice(("north", "south"))].kill()

    def term_coordinator(self) -> None:
        self._coordinators[self._chance.choice(("north", "south"))].terminate()

    def kill_broker(self) -> None:
        self._fleet.broker.kill()
        self._over.wait(self._chance.uniform(0.0, 2.0))
        self._fleet.broker.start()

    def kill_durable_broker(self) -> None:
        self._fleet.broker.keep(True)
        self.kill_broker()
        self._fleet.broker.keep(False)

    def flush_broker(self) -> None:
        self._fleet.broker.client().flushall()

    def restart_database(self) -> None:
        self._fleet.database.stop()
        self._over.wait(self._chance.uniform(0.0, 3.0))
        self._fleet.database.start()

    def kill_database(self) -> None:
        self._fleet.database.kill()
        self._fleet.database.start()

    def ring_twice(self) -> None:
        """Send the messages of all trials that wait or run once more, and twice."""
        with suppress(ParetuneError):
            for search in self._fleet.ledger.searches():
                for trial in self._fleet.ledger.trials(search.id):
                    if trial.state != "DONE":
                        for _ in range(2):
                            self._fleet.bell.ring(trial.candidate.target, trial.id)

    def cut_from_broker(self) -> None:
        self._cut(self._fleet.to_broker[self._chance.choice(sorted(WORKERS))])

    def cut_from_database(self) -> None:
        self._cut(self._fleet.to_database[self._chance.choice(sorted(WORKERS))])

    def _cut(self, proxy: object) -> None:
        proxy.cut()  # type: ignore[attr-defined]
        reset = self._chance.random() < 0.5
        timer = threading.Timer(self._chance.uniform(0.5, 8.0), proxy.heal, kwargs={"reset": reset})  # type: ignore[attr-defined]
        timer.start()
        self._healing.append(timer)

    def set_clock(self) -> None:
        self._worker().send_signal(self._chance.choice((signal.SIGUSR1, signal.SIGUSR2)))


@dataclass(frozen=True)
class Figures:
    """What the ledger says after the soak, and what in it must not be."""

    trials: int
    kinds: Counter[str]
    attempts: Counter[str]
    problems: tuple[str, ...]

    @property
    def hold(self) -> bool:
        """Whether everything holds."""
        return not self.problems


def figures_of(fleet: Fleet, searches: Sequence[SearchRecord], told: Told, asked: argparse.Namespace) -> Figures:
    """Read the ledger, the intervals and the bundles."""
    problems = [f"trial {name} ran more than {GRACE_SECONDS:g} s past its lease" for name in sorted(told.overdue)]
    kinds, attempts, trials = Counter[str](), Counter[str](), 0
    fronts: set[tuple[str, ...]] = set()
    for search in searches:
        problems += problems_of(fleet.ledger, search.id)
        found = fleet.ledger.trials(search.id)
        trials += len(found)
        outcomes = [trial.outcome for trial in found if trial.outcome is not None]
        kinds.update(str(each.failure.kind if each.failure else each.kind) for each in outcomes)
        attempts.update(str(each.ended_how) for trial in found for each in fleet.ledger.attempts(trial.id))
        if len(found) != PER_SEARCH:
            problems.append(f"search {search.name} has {len(found)} trials, and its space {PER_SEARCH}")
        if all(each.kind == "measured" for each in outcomes):
            fronts.add(tuple(front_of(found)))
    if len(fronts) > 1:
        problems.append(f"searches of one space have {len(fronts)} different fronts")
    if trials < asked.trials or told.faults.total() < asked.faults:
        problems.append(f"in {asked.minutes:g} minutes there was time for {trials} trials of {asked.trials} and "
                        f"{told.faults.total()} faults of {asked.faults}")  # fmt: skip
    problems += [f"measured at once on {text}" for text in overlapping(intervals(fleet.home))]
    problems += [f"half-written bundle {text}" for text in damaged_bundles(fleet.home)]
    return Figures(trials, kinds, attempts, tuple(problems))


def report(figures: Figures, told: Told, seconds: float, arguments: argparse.Namespace) -> str:
    """Return the section of the results."""

    def listed(counts: Counter[str]) -> str:
        return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))

    lines = [
        f"## {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}: {told.faults.total()} faults over "
        f"{figures.trials} trials",
        "", f"`python -m tests.faults.soak --trials {arguments.trials} --faults {arguments.faults} "
        f"--seed {arguments.seed} --record`", "",
        f"{len(WORKERS)} worker processes on {len(DEVICES)} devices, 2 coordinators, PostgreSQL, Valkey, Celery, "
        f"sandboxes that sleep; leases of {LEASE_SECONDS:g} s, a visibility timeout of 5 s; {seconds:.0f} s.",
        "", f"- Faults: {listed(told.faults)}; {told.in_time} of them while trials were unfinished.",
        f"- Outcomes: {listed(figures.kinds)}. Attempts: {listed(figures.attempts)}.",
        f"- Past its lease by more than {GRACE_SECONDS:g} s: {len(told.overdue)} trials.",
        *(f"- Wrong: {problem}" for problem in figures.problems),
        f"- Asked: 0 lost, 0 doubled, none left running, every interval alone on its device. "
        f"**{'Holds' if figures.hold else 'Does not hold'}.**",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the soak, print its report, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000, help=f"at least; searches have {PER_SEARCH} each")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=1.6, help="seconds between faults, on average")
    parser.add_argument("--minutes", type=float, default=30.0, help="nothing new is begun after so long")
    parser.add_argument("--keep", type=Path, help="folder for logs and servers, kept afterwards")
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    told = parser.parse_args(arguments)
    with ExitStack() as stack:
        home = told.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="paretune-soak-")))
        home.mkdir(parents=True, exist_ok=True)
        database = stack.enter_context(PostgreSql(durable=True))
        fleet = Fleet(database, stack.enter_context(Redis()), home, WORKERS)
        stack.callback(fleet.end)
        fleet.order(seconds=JOB_SECONDS)
        fleet.complete()
        soak = Soak(fleet, random.Random(told.seed), -(-told.trials // PER_SEARCH))  # noqa: S311
        stack.callback(soak.end)
        began = time.monotonic()
        soak.run(told.faults, told.pause, told.minutes * 60)
        figures = figures_of(fleet, soak.searches, soak.told, told)
        record(report(figures, soak.told, time.monotonic() - began, told), keep=told.record)
    return 0 if figures.hold else 1


if __name__ == "__main__":
    sys.exit(main())
