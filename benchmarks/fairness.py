"""Does a search of 10,000 trials hold up a search of 20?

    python -m benchmarks.fairness --record

A large search has every device of a fleet; then a small one comes. Who may queue the next trial is decided by the
ledger's own ``turn``, trials are claimed and finished through it as coordinators and workers do, and only the clock is
made up: 0.3 s pass between two looks, a trial takes half of ``LONGEST_S`` to all of it.

Asked: the small search ends no more than one trial length later than it would have without the large one, on the
devices that are its share; and where it has a higher priority, than on all devices. Exit code 0: it does; 1: not.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.results import record
from evaluators.outcome import Outcome
from evaluators.verdicts import judge_all
from tests.search.factories import _evidence, a_candidate, a_profile, a_spec
from workers.ledger import Ledger
from workers.settings import TrialSettings

LARGE, SMALL = 10_000, 20
LONGEST_S = 30.0
LOOK_S = 0.3
TARGET = a_candidate().target


@dataclass
class Search:
    """A search that asks whenever it may: how many trials it has yet to queue, and when it began and ended."""

    id: str
    left: int
    began_s: float
    ended_s: float = math.nan


class Fleet:
    """Devices and searches on one made-up clock, over a real ledger."""

    def __init__(self, folder: Path, devices: int, longest_s: float = LONGEST_S) -> None:
        self._now, self._devices, self._longest_s = 0.0, devices, longest_s
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}", clock=lambda: self._now)
        self._idle = [f"device-{number}" for number in range(devices)]
        self._busy: list[tuple[float, str, int, str, Search]] = []
        self._searches: list[Search] = []

    def submit(self, trials: int, priority: int = 0) -> Search:
        """Leave a search of so many trials to the fleet."""
        spec = a_spec(name=None)
        found = self.ledger.create_search(spec.workload, spec.to_json())
        self.ledger.submit(found.id, priority=priority)
        self.ledger.keep_settings(found.id, TrialSettings(profile=a_profile()))
        self._searches.append(Search(found.id, trials, self._now))
        return self._searches[-1]

    def run(self, *, until: Search | None = None, seconds: float = math.inf) -> None:
        """Let time pass, until a search has ended or for so many seconds."""
        end = self._now + seconds
        while self._now < end and (until is None or math.isnan(until.ended_s)):
            self._finish()
            for search in self._searches:
                self._ask(search)
            self._claim()
            self._now += LOOK_S

    def _ask(self, search: Search) -> None:
        while search.left and self.ledger.turn(search.id, {TARGET: self._devices}):
            candidate = a_candidate(batch_size=search.left)
            self.ledger.add_trial(search.id, candidate, "sampled", candidate.hash)
            search.left -= 1

    def _claim(self) -> None:
        by_id = {search.id: search for search in self._searches}
        for trial in self.ledger.queued(TARGET, most=len(self._idle)) if self._idle else ():
            owner = self._idle.pop()
            if self.ledger.claim(trial.id, trial.attempt, owner, 1e6):
                took = self._longest_s * random.Random(trial.candidate.hash).uniform(0.5, 1.0)  # noqa: S311
                self._busy.append((self._now + took, trial.id, trial.attempt, owner, by_id[trial.search_id]))

    def _finish(self) -> None:
        for ended in sorted(item for item in self._busy if item[0] <= self._now):
            self._busy.remove(ended)
            _, trial_id, attempt, owner, search = ended
            evidence = _evidence(a_candidate(), 0.5, 0.92, 1, 0.002)
            verdicts = judge_all(a_spec().constraints, evidence)
            outcome = Outcome(kind="measured", evidence=evidence, verdicts=verdicts)
            self.ledger.finish(trial_id, attempt, owner, outcome)
            self._idle.append(owner)
            if not search.left and not any(item[4] is search for item in self._busy) and not self._waits(search):
                search.ended_s = self._now

    def _waits(self, search: Search) -> bool:
        return bool(self.ledger.queued(TARGET, search.id, most=1))


def alone_s(devices: int, trials: int, longest_s: float = LONGEST_S) -> float:
    """Return how long a search takes that has a fleet for itself."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), devices, longest_s)
        with closing(fleet.ledger):
            search = fleet.submit(trials)
            fleet.run(until=search)
            return search.ended_s - search.began_s


def beside_s(devices: int, trials: int, large: int, priority: int, longest_s: float = LONGEST_S) -> float:
    """Return how long it takes beside a large search that was there before."""
    with tempfile.TemporaryDirectory() as folder:
        fleet = Fleet(Path(folder), devices, longest_s)
        with closing(fleet.ledger):
            fleet.submit(large)
            fleet.run(seconds=2 * longest_s)
            search = fleet.submit(trials, priority)
            fleet.run(until=search)
            return search.ended_s - search.began_s


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", default="2,8,40", help="sizes of fleets, with commas")
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    arguments = parser.parse_args(argv)
    lines = [f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: fairness", "",
             f"`python -m benchmarks.fairness {' '.join(argv)}`", "",
             f"A search of {SMALL} trials beside one of {LARGE:,} that has every device; a trial takes up to "
             f"{LONGEST_S:g} s.", "",
             "| devices | the small one | without the large one, s | beside it, s | later by, trial lengths |",
             "| --- | --- | --- | --- | --- |"]  # fmt: skip
    delays = []
    for devices in (int(part) for part in arguments.devices.split(",")):
        for label, priority, its_own in (("equal share", 0, devices // 2), ("higher priority", 1, devices)):
            alone, beside = alone_s(its_own, SMALL), beside_s(devices, SMALL, LARGE, priority)
            delays.append((beside - alone) / LONGEST_S)
            lines.append(f"| {devices} | {label}: {its_own} devices | {alone:.1f} | {beside:.1f} | {delays[-1]:.2f} |")
            print(lines[-1], file=sys.stderr)
    holds = max(delays) <= 1.0
    record("\n".join([*lines, "", "**Holds.**" if holds else "**Does not hold.**", "", ""]), keep=arguments.record)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
