"""A fleet whose jobs sleep instead of measuring: the product's own workers, coordinators and servers, quick trials.

``python -m tests.faults.sleeping worker|coordinator LEDGER BROKER HOME`` is one part of it as a process of its own.
Only the sandbox is made up, and MLflow, which has tests of its own, is left out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from evaluators.candidate import parse_candidate
from evaluators.capabilities import Capabilities, capabilities_of
from evaluators.jobs import JobResult, MeasureJob, Prepared, PrepareJob, ProfileJob
from evaluators.outcome import Outcome
from evaluators.target import probe_processor
from evaluators.verdicts import judge_all
from search import coordinator
from search.cli.fleet import _switches
from search.coordinator import FleetMeans
from search.fleet_api import _bell
from search.service import Service
from tests.conftest import ROOT
from tests.search.factories import _evidence, a_profile, a_spec
from workers.celery_app import hear, make_app
from workers.lease import Cancellation, wait_for
from workers.ledger import Ledger
from workers.records import SearchRecord
from workers.sandbox import AnyJob, Sandbox, SandboxResult
from workers.worker import Worker

TARGET = "cpu-sleep"
JOB_SECONDS = 0.1
RING_AGAIN_SECONDS = 1.0


class SleepingSandbox(Sandbox):
    """Answers every job after a nap, the same for the same candidate."""

    def __init__(self, seconds: float = JOB_SECONDS) -> None:
        super().__init__(mode="spawn")
        self._seconds = seconds

    def run(
        self, job: AnyJob, folder: Path, *, timeout_s: float, memory_limit_bytes: int | None = None,
        env: Mapping[str, str] | None = None, cancel: Sequence[Cancellation] = (),
    ) -> SandboxResult:  # fmt: skip
        cancelled = wait_for(cancel, self._seconds)
        return SandboxResult(
            result=None if cancelled else answer(job), exit_code=0, signal=None, timed_out=False, cancelled=cancelled,
            stage=None, seconds=self._seconds, log_tail="", peak_rss_bytes=0, timeout_s=timeout_s,
            memory_limit_bytes=memory_limit_bytes,
        )  # fmt: skip


def answer(job: AnyJob) -> JobResult:
    """Answer a job as if it had been done."""
    if isinstance(job, ProfileJob):
        return JobResult(profile=a_profile())
    if isinstance(job, PrepareJob):
        return JobResult(prepared=Prepared(bundle=job.candidate.canonical, stage_seconds={"build": 0.1}))
    assert isinstance(job, MeasureJob), f"nobody asks a sleeping sandbox for {job.job}"
    candidate = parse_candidate(job.bundle)
    share = int(candidate.hash[:8], 16) / 16**8
    evidence = _evidence(candidate, 0.2 + share, 0.92 + share / 500, 100_000 + int(1e5 * share), 0.002)
    verdicts = judge_all(job.constraints, evidence)
    return JobResult(outcome=Outcome(kind="measured", evidence=evidence, verdicts=verdicts, bundle=job.bundle))


class NoProjection:
    """Takes the place of MLflow and the report."""

    report: str | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> NoProjection:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def capabilities() -> Capabilities:
    """Return what this machine can run, under the name of the target of the tests."""
    found = capabilities_of(probe_processor())
    return found.model_copy(update={"target": found.target.model_copy(update={"name": TARGET, "cores": 1})})


def submit(ledger: Ledger, trials: int = 10, *, name: str | None = None, **share: Any) -> SearchRecord:
    """Leave a search of so many sleeping trials to the fleet."""
    spec = a_spec(target=TARGET, backend="eager", batch_size="1,2,4", threads=1, trials=trials, name=name)
    record = ledger.create_search(spec.workload, spec.to_json(), name=name)
    ledger.submit(record.id, **share)
    return record


@contextmanager
def coordinating(ledger: Ledger, home: Path, bell: Any) -> Iterator[Service]:
    """Coordinate in a thread for the block."""
    coordinator.Projection = NoProjection  # type: ignore[misc]
    means = FleetMeans(SleepingSandbox(), Cancellation(), bell, RING_AGAIN_SECONDS)
    service = Service(ledger, home, means, lambda text: print(text, flush=True))
    thread = threading.Thread(target=service.run, name="service")
    thread.start()
    try:
        yield service
    finally:
        means.leave.set()
        thread.join(30)
        assert not thread.is_alive()


def part(kind: str, ledger_url: str, broker: str, home: Path, name: str = "") -> subprocess.Popen[bytes]:
    """Start a worker or a coordinator as a process of its own."""
    command = [sys.executable, "-m", "tests.faults.sleeping", kind, ledger_url, broker, str(home), name]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with (home / f"{kind}-{name}.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)


def main(kind: str, ledger_url: str, broker: str, home: str, name: str) -> None:
    """Be one part of the fleet until asked to leave."""
    with closing(Ledger(ledger_url)) as ledger, _switches() as (drain, abort):
        if kind == "worker":
            worker = Worker(ledger, SleepingSandbox(), Path(home), capabilities(), name=name, device=f"sleep:{name}",
                            locks=Path(home), say=lambda text: print(text, flush=True))  # fmt: skip
            worker.run(drain, abort, partial(hear, make_app(broker, [TARGET])))
            return
        with coordinating(ledger, Path(home), _bell(broker, ledger)):
            while not wait_for((drain,), 60.0):
                pass


if __name__ == "__main__":
    # By its own name, so that what the coordinator module is told holds there.
    from tests.faults import sleeping

    sleeping.main(*sys.argv[1:])
