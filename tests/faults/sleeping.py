"""A fleet whose jobs sleep instead of measuring: the product's own workers, coordinators and servers, quick trials.

``python -m tests.faults.sleeping worker|coordinator LEDGER BROKER HOME`` is one part of it as a process of its own.
Only the sandbox is made up; see ``tests.faults.coordinating`` for what is left out of a coordinator.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from evaluators.capabilities import Capabilities, capabilities_of
from evaluators.interpreter import Interpreter
from evaluators.jobs import CompareJob, Comparison, JobResult, MeasureJob, Prepared, PrepareJob, ProfileJob
from evaluators.outcome import AccuracyEvidence, Evidence, LatencyEvidence, Outcome
from evaluators.target import probe_processor
from evaluators.verdicts import judge_all
from search.cli.fleet import _switches
from workers.celery_app import hear, make_app
from workers.lease import Cancellation, wait_for
from workers.ledger import Ledger
from workers.sandbox import AnyJob, Sandbox, SandboxResult
from workers.worker import Worker

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET = "cpu-sleep"
JOB_SECONDS = 0.1


class SleepingSandbox(Sandbox):
    """Answers every job after a nap, the same for the same candidate."""

    def __init__(self, seconds: float = JOB_SECONDS) -> None:
        super().__init__(mode="spawn")
        self._seconds = seconds

    def run(
        self, job: AnyJob, folder: Path, *, timeout_s: float, memory_limit_bytes: int | None = None,
        env: Mapping[str, str] | None = None, cancel: Sequence[Cancellation] = (),
        interpreter: Interpreter | None = None,
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
        from tests.search.factories import a_profile

        return JobResult(profile=a_profile())
    if isinstance(job, PrepareJob):
        bundle = f"sleeping/{job.candidate.hash}"
        return JobResult(prepared=Prepared(bundle=bundle, stage_seconds={"build": 0.1}))
    if isinstance(job, CompareJob):
        p50s = [_p50(bundle) for bundle in job.bundles]
        levels = tuple((math.log(p50),) * 8 for p50 in p50s)
        latencies, seconds = tuple(_latency(p50) for p50 in p50s), (0.1,) * len(p50s)
        return JobResult(comparison=Comparison(latencies=latencies, log_medians=levels, seconds=seconds))
    assert isinstance(job, MeasureJob), f"nobody asks a sleeping sandbox for {job.job}"
    p50 = _p50(job.bundle)
    evidence = Evidence(
        latency=_latency(p50),
        throughput_per_s=1e3 / p50,
        accuracy=AccuracyEvidence(
            accuracy=0.92, ci95=(0.91, 0.93), drop=0.003, drop_ci95=(0.002, 0.004), drop_bounds=(0.002, 0.004),
            examples=100, of=100, metric="top1",
        ),
        size_bytes=int(1e5 * p50),
    )  # fmt: skip
    verdicts = judge_all(job.constraints, evidence)
    return JobResult(outcome=Outcome(kind="measured", evidence=evidence, verdicts=verdicts, bundle=job.bundle))


def _p50(bundle: str) -> float:
    """What a call takes in ms: the same for the same candidate."""
    return 0.2 + int(bundle.removeprefix("sleeping/")[:8], 16) / 16**8


def _latency(p50: float) -> LatencyEvidence:
    return LatencyEvidence(percentile="p95", p50=p50, p90=p50, p95=p50, p99=p50, mean=p50, ci95=(p50, p50),
                           bounds=(p50, p50), samples=900, processes=3, warmup_calls=60,
                           load_seconds=0.03)  # fmt: skip


def capabilities() -> Capabilities:
    """Return what this machine can run, under the name of the target of the tests."""
    found = capabilities_of(probe_processor())
    return found.model_copy(update={"target": found.target.model_copy(update={"name": TARGET, "cores": 1})})


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
        from search.fleet_api import _bell
        from tests.faults.coordinating import coordinating

        with coordinating(ledger, Path(home), _bell(broker, ledger)):
            while not wait_for((drain,), 60.0):
                pass


if __name__ == "__main__":
    main(*sys.argv[1:])
