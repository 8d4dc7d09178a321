"""The parts of ``fleet_scale``: simulated devices on a clock of their own, timed steps, workers that sleep.

``python -m benchmarks.simulated_fleet devices URL COUNT`` is so many devices as one process,
``python -m benchmarks.simulated_fleet worker URL BROKER HOME NAME SECONDS`` one worker whose jobs sleep so long.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from sqlalchemy import Engine, event, insert, select, update

from evaluators.candidate import Candidate
from evaluators.joint_space import JointSpace, derive_joint_space
from evaluators.outcome import Outcome
from evaluators.verdicts import judge_all
from scripts.servers import PostgreSql, Redis, wait_until
from search import coordinator, fleet_loop, service
from search.coordinator import FleetMeans
from search.fleet import Fleet
from search.fleet_loop import FleetLoop
from search.progress import Silent
from search.service import Service
from search.spec import SearchSpec
from search.trial_loop import Session
from tests.faults.coordinating import NoProjection, coordinating
from tests.faults.sleeping import ROOT, TARGET, SleepingSandbox, capabilities
from tests.search.factories import _evidence, a_profile, a_spec
from workers import tables
from workers.celery_app import hear, make_app
from workers.lease import Cancellation
from workers.ledger import Ledger
from workers.settings import TrialSettings
from workers.worker import Worker

TRIAL_SECONDS = 30.0
LOOK_SECONDS = 0.3
"""What a coordinator waits between two looks; the simulated clock goes on by as much."""

SIMULATED_LOOK_SECONDS = 0.05
QUIET_SECONDS = 0.15
"""After so long without a new trial coordinators are taken to have none."""

LEASE_SECONDS = 86_400.0
BEAT_SECONDS = 5.0
RUNNING_BESIDE = 8


@dataclass(frozen=True)
class Times:
    """Percentiles of times in milliseconds."""

    p50: float
    p95: float

    @classmethod
    def of(cls, seconds: list[float]) -> Times:
        p50, p95 = np.percentile(np.array(seconds) * 1e3, [50, 95])
        return cls(float(p50), float(p95))


@dataclass(frozen=True)
class Steps:
    """What steps of a search of so many trials took."""

    database: str
    trials: int
    ask: Times
    tell: Times
    both: Times
    both_cpu: Times
    taking_up_s: float

    def row(self) -> str:
        """Return the row of the table."""
        pairs = (self.ask, self.tell, self.both, self.both_cpu)
        times = [each for pair in pairs for each in (pair.p50, pair.p95)]
        shown = " | ".join(f"{each:.1f}" for each in times)
        return f"| {self.database} | {self.trials:,} | {shown} | {self.taking_up_s:.1f} |"


@dataclass(frozen=True)
class Cost:
    """What coordinating searches took."""

    database: str
    searches: int
    trials: int
    devices: int
    wall_s: float
    coordinator_cpu_s: float
    coordinator_statements: int
    worker_statements: int
    most_unfinished: int


@dataclass(frozen=True)
class Scaling:
    """How long the same search took one worker process and four of them."""

    trials: int
    trial_s: float
    one_s: float
    four_s: float

    @property
    def times(self) -> float:
        return self.one_s / self.four_s


def spec_of(trials: int, seed: int = 0) -> SearchSpec:
    """Return the spec of a search in the whole space of this machine's backends."""
    return a_spec(target=TARGET, trials=trials, seed=seed, name=None, latency_budget_ms=1.0)


def outcome_of(candidate: Candidate, spec: SearchSpec) -> Outcome:
    """Return what a candidate would have been measured at, always the same: int8 and pruning are faster and worse."""
    noise = random.Random(candidate.hash)  # noqa: S311
    pruned = candidate.pruning.amount
    faster = (0.5 if "int8" in candidate.quantization.scheme else 1.0) * (1.0 - 0.8 * pruned)
    p50 = 0.3 * faster * candidate.batch_size**0.9 * noise.uniform(0.8, 1.25)
    drop = 0.004 * (faster < 1) + 0.03 * pruned**2 * noise.uniform(0.5, 1.5)
    evidence = _evidence(candidate, p50, 0.923 - drop, int(1e5 * faster), 0.002)
    return Outcome(kind="measured", evidence=evidence, verdicts=judge_all(spec.constraints, evidence),
                   bundle=f"nowhere/{candidate.hash}", stage_seconds={"latency": TRIAL_SECONDS})  # fmt: skip


def register(ledger: Ledger, count: int) -> list[str]:
    """Register so many devices, each on a machine of its own, and return the names of their workers."""
    found, names = capabilities(), [f"machine-{number}:1:1/{TARGET}@cpu" for number in range(count)]
    for number, name in enumerate(names):
        ledger.register_worker(name, f"device-{number}", f"machine-{number}", 1, found, "cpu")
    return names


def beat(ledger: Ledger) -> None:
    """Say for all devices that they are there."""
    with ledger._database.writing() as connection:
        connection.execute(update(tables.workers).values(last_seen=ledger.now()))


def run_steps(database: str, url: str, trials: int, steps: int) -> Steps:
    """Time steps of a search that has ``trials`` already."""
    spec = spec_of(trials + steps + RUNNING_BESIDE)
    space = derive_joint_space(a_profile(), {TARGET: capabilities()})
    with closing(Ledger(url)) as ledger:
        search = ledger.create_search(spec.workload, spec.to_json())
        fill(ledger, search.id, spec, space, trials)
        fleet = Fleet(ledger, Path("home"), (TARGET,), {})
        owner = register(ledger, 4 * RUNNING_BESIDE)[0]
        session = Session(
            record=search, spec=spec, space=space, settings=TrialSettings(profile=a_profile()), ledger=ledger,
            supervisor=None, projection=SimpleNamespace(deliver=lambda *_: None), progress=Silent(),
            stop=Cancellation(), seconds_left=lambda: float("inf"), account=lambda: None, note=print, remind=print,
            fleet=fleet,
        )  # type: ignore[arg-type]  # fmt: skip
        loop = FleetLoop(session, fleet)
        begun = time.perf_counter()
        loop._take_up()
        taking_up_s, asks, tells = time.perf_counter() - begun, list[float](), list[float]()
        asks_cpu, tells_cpu = list[float](), list[float]()
        for step in range(steps + RUNNING_BESIDE):
            beat(ledger)
            with timed(asks), timed(asks_cpu, time.thread_time):
                if not loop._ask(fleet.present()):
                    raise RuntimeError("there was nothing to ask for")
            loop._catch_up()
            trial = loop._known.unfinished[0]
            if step >= RUNNING_BESIDE:
                ledger.claim(trial.id, trial.attempt, owner, LEASE_SECONDS)
                ledger.finish(trial.id, trial.attempt, owner, outcome_of(trial.candidate, spec))
                with timed(tells), timed(tells_cpu, time.thread_time):
                    loop._catch_up()
    both, both_cpu = added(asks[RUNNING_BESIDE:], tells), added(asks_cpu[RUNNING_BESIDE:], tells_cpu)
    return Steps(database, trials, Times.of(asks[RUNNING_BESIDE:]), Times.of(tells), Times.of(both),
                 Times.of(both_cpu), taking_up_s)  # fmt: skip


def added(one: list[float], other: list[float]) -> list[float]:
    return [a + b for a, b in zip(one, other, strict=True)]


@contextmanager
def timed(times: list[float], clock: Callable[[], float] = time.perf_counter) -> Iterator[None]:
    """Add what the block takes."""
    begun = clock()
    yield
    times.append(clock() - begun)


def fill(ledger: Ledger, search_id: str, spec: SearchSpec, space: JointSpace, trials: int) -> None:
    """Put finished trials of random candidates straight into the ledger's table."""
    # Not the sampler's own seed: its random candidates would be these.
    chance, part, found = random.Random("filled"), space.of(TARGET), dict[str, Candidate]()  # noqa: S311
    while len(found) < trials:
        candidate = part.walk(lambda _, parameter: chance.choice(parameter.values))
        found[candidate.hash] = candidate
    rows = [
        {"id": f"{search_id}/{number}", "search_id": search_id, "number": number, "candidate": each.canonical,
         "target": TARGET, "candidate_hash": each.hash, "evaluation_key": each.hash, "source": "sampled",
         "state": "DONE", "attempt": 1, "gates": True, "outcome": outcome_of(each, spec).model_dump_json(),
         "outcome_kind": "measured", "created_at": 0.0, "finished_at": 1.0}
        for number, each in enumerate(found.values())
    ]  # fmt: skip
    with ledger._database.writing() as connection:
        for start in range(0, len(rows), 1000):
            connection.execute(insert(tables.trials), rows[start : start + 1000])


def run_fleet(
    database: str, url: str, home: Path, searches: int, trials: int, devices: int, most_s: float = float("inf")
) -> Cost:
    """Have one coordinator see so many searches through, for at most ``most_s``, and return what that took it."""
    begun = time.monotonic()
    with closing(Ledger(url)) as ledger, counted() as statements:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.simulated_fleet", "devices", url, str(devices)], cwd=ROOT,
            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        wait_until(lambda: len(ledger.workers()) == devices, 300)
        for number in range(searches):
            spec = spec_of(trials // searches, seed=number)
            ledger.submit(ledger.create_search(spec.workload, spec.to_json()).id)
        before = (time.process_time(), statements[0])
        coordinate_all(ledger, home, searches, begun + most_s)
        cpu_s, asked = time.process_time() - before[0], statements[0] - before[1]
        for search in ledger.searches():
            if search.status == "running":  # the time was up
                ledger.update_search(search.id, status="interrupted")
        told = json.loads(process.communicate()[0])
        done = sum(step[2] == "DONE" for search in ledger.searches() for step in ledger.progress(search.id))
    return Cost(database, searches, done, devices, time.monotonic() - begun, cpu_s, asked, told["statements"],
                told["most_unfinished"])  # fmt: skip


def coordinate_all(ledger: Ledger, home: Path, searches: int, until: float) -> None:
    """Run the product's service until all searches are over, or until the steady clock says so."""
    means = FleetMeans(SleepingSandbox(0.0), Cancellation(), None)
    coordinating_all = Service(ledger, home, means, lambda text: None)
    with (
        patch.object(coordinator, "Projection", NoProjection),
        patch.object(fleet_loop, "LOOK_SECONDS", SIMULATED_LOOK_SECONDS),
        patch.object(service, "LOOK_SECONDS", 0.2),
    ):
        thread = threading.Thread(target=coordinating_all.run)
        thread.start()
        while coordinating_all.coordinated < searches and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.2)
        means.leave.set()
        thread.join()


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the statements that this process sends to databases."""
    count = [0]

    def one_more(*_: Any) -> None:
        count[0] += 1

    event.listen(Engine, "before_cursor_execute", one_more)
    try:
        yield count
    finally:
        event.remove(Engine, "before_cursor_execute", one_more)


class Devices:
    """Devices of which each takes a trial at a time, for ``TRIAL_SECONDS`` of a clock that waits for coordinators."""

    def __init__(self, ledger: Ledger, count: int, statements: list[int]) -> None:
        self._ledger, self._statements = ledger, statements
        self._idle, self._now, self._beat_at = register(ledger, count), 0.0, time.monotonic()
        self._busy: list[tuple[float, str, int, str]] = []
        self._specs: dict[str, SearchSpec] = {}
        self._chance = random.Random(0)  # noqa: S311
        self.statements = self.most_unfinished = 0

    def run(self) -> None:
        """Work until no search runs."""
        quiet_since = time.monotonic()
        while not self._over():
            self._beat()
            if self._take():
                quiet_since = time.monotonic()
            elif not self._idle or time.monotonic() - quiet_since >= QUIET_SECONDS:
                self._go_on()
                quiet_since = time.monotonic()
            else:
                time.sleep(0.01)

    def _take(self) -> int:
        """Claim what is queued for devices that are idle, and return how many trials that were."""
        taken = 0
        queued = self._look(select(tables.trials.c.id, tables.trials.c.attempt)
                            .where(tables.trials.c.state == "QUEUED", tables.trials.c.target == TARGET)
                            .order_by(tables.trials.c.created_at))  # fmt: skip
        self.most_unfinished = max(self.most_unfinished, len(queued) + len(self._busy))
        for trial_id, attempt in queued:
            if not self._idle:
                break
            owner = self._idle.pop()
            if self._worked(lambda i=trial_id, a=attempt, o=owner: self._ledger.claim(i, a, o, LEASE_SECONDS)):
                until = self._now + TRIAL_SECONDS * self._chance.uniform(0.5, 1.5)
                heapq.heappush(self._busy, (until, trial_id, attempt, owner))
                taken += 1
            else:
                self._idle.append(owner)
        return taken

    def _go_on(self) -> None:
        """Let the clock go on by a coordinator's look, or to the next end of a trial, and finish what ends by then."""
        if not self._busy:
            return
        self._now = max(self._now + LOOK_SECONDS, self._busy[0][0])
        while self._busy and self._busy[0][0] <= self._now:
            _, trial_id, attempt, owner = heapq.heappop(self._busy)
            outcome = self._outcome(trial_id)
            self._worked(lambda i=trial_id, a=attempt, o=owner, found=outcome: self._ledger.finish(i, a, o, found))
            self._idle.append(owner)

    def _outcome(self, trial_id: str) -> Outcome:
        trial = self._ledger.trial(trial_id)
        if trial.search_id not in self._specs:
            self._specs[trial.search_id] = SearchSpec.model_validate(self._ledger.search(trial.search_id).spec)
        return outcome_of(trial.candidate, self._specs[trial.search_id])

    def _over(self) -> bool:
        found = self._look(select(tables.searches.c.status))
        return bool(found) and all(row[0] != "running" for row in found)

    def _beat(self) -> None:
        """Say for all devices that they are there."""
        if time.monotonic() - self._beat_at >= BEAT_SECONDS:
            beat(self._ledger)
            self._beat_at = time.monotonic()

    def _worked(self, act: Callable[[], bool]) -> bool:
        """Do what a worker does, and count its statements."""
        before = self._statements[0]
        done = act()
        self.statements += self._statements[0] - before
        return done

    def _look(self, wanted: Any) -> list[Any]:
        with self._ledger._database.reading() as connection:
            return list(connection.execute(wanted))


def processes_scale(home: Path, trials: int = 40, trial_s: float = 1.5) -> Scaling:
    """Run the same search on one worker process and on four, with a real broker and a real database."""
    seconds = []
    with PostgreSql() as database, Redis() as broker:
        for count in (1, 4):
            url = database.new_ledger()
            with closing(Ledger(url)) as ledger:
                seconds.append(time_processes(ledger, url, broker.url, home, count, trials, trial_s / 2))
    return Scaling(trials, trial_s, *seconds)


def time_processes(ledger: Ledger, url: str, broker: str, home: Path, count: int, trials: int, job_s: float) -> float:
    """Return how long so many workers take for a search."""
    from search.fleet_api import _bell

    command = [sys.executable, "-m", "benchmarks.simulated_fleet", "worker", url, broker, str(home)]
    processes = [
        subprocess.Popen([*command, str(number), str(job_s)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for number in range(count)
    ]  # fmt: skip
    try:
        wait_until(lambda: len(ledger.workers()) == count, 120)
        with coordinating(ledger, home, _bell(broker, ledger)):
            spec = spec_of(trials)
            search = ledger.create_search(spec.workload, spec.to_json())
            ledger.submit(search.id)
            wait_until(lambda: bool(ledger.running()), 60)
            begun = time.monotonic()
            wait_until(lambda: sum(step[2] == "DONE" for step in ledger.progress(search.id)) >= trials, 600)
            return time.monotonic() - begun
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)


def be_devices(url: str, count: int) -> None:
    """Be so many devices until all searches are over, then say what that took."""
    with closing(Ledger(url)) as ledger, counted() as statements:
        devices = Devices(ledger, count, statements)
        devices.run()
    print(json.dumps({"statements": devices.statements, "most_unfinished": devices.most_unfinished}))


def be_worker(url: str, broker: str, home: str, name: str, job_s: float) -> None:
    """Be a worker whose jobs sleep, until asked to leave."""
    from search.cli.fleet import _switches

    with closing(Ledger(url)) as ledger, _switches() as (drain, abort):
        worker = Worker(ledger, SleepingSandbox(job_s), Path(home), capabilities(), name=name, device=f"sleep:{name}",
                        locks=Path(home))  # fmt: skip
        worker.run(drain, abort, partial(hear, make_app(broker, [TARGET])))


if __name__ == "__main__":
    if sys.argv[1] == "devices":
        be_devices(sys.argv[2], int(sys.argv[3]))
    else:
        be_worker(*sys.argv[2:6], float(sys.argv[6]))
