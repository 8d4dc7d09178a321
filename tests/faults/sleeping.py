"""A fleet whose jobs sleep instead of measuring: the product's own workers, sandboxes, coordinators and servers.

``python -m tests.faults.sleeping worker|coordinator LEDGER BROKER HOME NAME SETTINGS`` is one part of it as a process
of its own. Only what the jobs do is made up (``tests.faults.sandboxed``); see ``tests.faults.coordinating`` for what is
left out of a coordinator. SIGUSR1 puts the clock of a part forward by a day, SIGUSR2 back.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from evaluators.capabilities import Capabilities, capabilities_of
from evaluators.interpreter import Interpreter
from evaluators.jobs import CompareJob, JobResult, MeasureJob, Prepared, PrepareJob, ProfileJob
from evaluators.target import probe_processor
from search import service
from search.cli.fleet import _switches
from tests.faults.sandboxed import DEVICE, PRELOADED, RUNNER, compared, measured
from workers import database, worker
from workers.celery_app import SILENT_SECONDS, VISIBILITY_SECONDS, hear, make_app
from workers.lease import Cancellation, wait_for
from workers.ledger import Ledger
from workers.sandbox import AnyJob, Sandbox, SandboxResult
from workers.worker import Worker

ROOT = Path(__file__).resolve().parent.parent.parent
TARGET, GPU = "cpu-sleep", "cuda-sm90"
JOB_SECONDS = 0.1
DAY_SECONDS = 86_400.0
SMALL = "small"
"""A workload with nothing to prune: its space can be tried to the end."""


class SleepingSandbox(Sandbox):
    """Answers every job after a nap, without a process, the same for the same candidate."""

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

        return JobResult(
            profile=a_profile(layers={}, widths=(), calibration_examples=8) if job.workload == SMALL else a_profile()
        )
    if isinstance(job, PrepareJob):
        bundle = f"sleeping/{job.candidate.hash}"
        return JobResult(prepared=Prepared(bundle=bundle, stage_seconds={"build": 0.1}))
    if isinstance(job, CompareJob):
        return JobResult(comparison=compared([Path(bundle).name for bundle in job.bundles]))
    assert isinstance(job, MeasureJob), f"nobody asks a sleeping sandbox for {job.job}"
    return JobResult(outcome=measured(job.bundle.removeprefix("sleeping/"), job.bundle, job.constraints))


def capabilities(target: str = TARGET, cores: int = 1) -> Capabilities:
    """Return what this machine can run, under the name of a target of the tests."""
    found = capabilities_of(probe_processor())
    return found.model_copy(update={"target": found.target.model_copy(update={"name": target, "cores": cores})})


def part(
    kind: str, ledger_url: str, broker: str, home: Path, name: str = "", within: Sequence[str] = (), **settings: object
) -> subprocess.Popen[bytes]:
    """Start a worker or a coordinator as a process of its own; ``within`` is a command that starts it."""
    told = json.dumps(settings)
    command = [*within, sys.executable, "-m", "tests.faults.sleeping", kind, ledger_url, broker, str(home), name, told]
    environment = os.environ | {"PYTHONPATH": str(ROOT), DEVICE: str(settings.get("device", f"sleep:{name}"))}
    with (home / f"{kind}-{name}.log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=ROOT)


def main(kind: str, ledger_url: str, broker: str, home: Path, name: str, settings: dict[str, object]) -> None:
    """Be one part of the fleet until asked to leave."""
    _let_the_clock_be_set()
    database.STALLED_SECONDS = float(str(settings.pop("stalled_s", database.STALLED_SECONDS)))
    worker.RETRY_SECONDS = service.RETRY_SECONDS = float(str(settings.pop("retry_s", worker.RETRY_SECONDS)))
    with closing(Ledger(ledger_url)) as ledger, _switches() as (drain, abort):
        if kind == "worker":
            _work(ledger, broker, home, name, drain, abort, **settings)  # type: ignore[arg-type]
            return
        from search.fleet_api import _bell
        from tests.faults.coordinating import coordinating

        with coordinating(ledger, home, _bell(broker, ledger), **settings):
            while not wait_for((drain,), 60.0):
                pass


def _work(
    ledger: Ledger, broker: str, home: Path, name: str, drain: Cancellation, abort: Cancellation, *,
    target: str = TARGET, device: str = "", cores: int = 1, visibility_s: float = VISIBILITY_SECONDS,
    silent_s: float = SILENT_SECONDS,
) -> None:  # fmt: skip
    app = make_app(broker, [target], visibility_s=visibility_s, silent_s=silent_s)
    with Sandbox(runner=RUNNER, preloaded=PRELOADED) as sandbox:
        mine = Worker(ledger, sandbox, home, capabilities(target, cores), name=name,
                      device=device or f"sleep:{name}", locks=home,
                      say=lambda text: print(text, flush=True))  # fmt: skip
        mine.run(drain, abort, partial(hear, app))


def _let_the_clock_be_set() -> None:
    ahead, real = [0.0], time.time

    def set_clock(number: int, _: object) -> None:
        ahead[0] += DAY_SECONDS if number == signal.SIGUSR1 else -DAY_SECONDS

    time.time = lambda: real() + ahead[0]
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, set_clock)


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]), sys.argv[5], json.loads(sys.argv[6]))
