"""A worker for tests: this machine under the name of another target, and as many times slower as told.

``python -m tests.end_to_end.slowed_worker HOME TARGET TIMES_SLOWER``. It is the product's own ``Worker``, with the
product's own jobs; only the probe of the processor and ``Runner.run`` of every backend are wrapped, in the processes
of the jobs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from evaluators import registry, run_job
from evaluators.capabilities import capabilities_of
from evaluators.jobs import Job, JobResult
from evaluators.target import Target, probe, probe_processor
from workers.lease import Cancellation
from workers.ledger import Ledger
from workers.sandbox import Sandbox
from workers.worker import Worker

TARGET, TIMES_SLOWER = "TARGET_FOR_TESTS", "TIMES_SLOWER_FOR_TESTS"


class Slowed:
    """A runner whose every call takes ``times`` as long; the processor is busy all the while, as a slower one is."""

    def __init__(self, runner: Any, times: float) -> None:
        self._runner, self._times = runner, times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, prepared: Any) -> Any:
        begun = time.perf_counter()
        raw = self._runner.run(prepared)
        until = begun + (time.perf_counter() - begun) * self._times
        while time.perf_counter() < until:
            pass
        return raw


def named(target: Target, name: str) -> Target:
    return target.model_copy(update={"name": name})


def run(job: Job, report_stage: Callable[[str], None]) -> JobResult:
    """Do the job as it is always done, on the machine that this one is told to be."""
    here, times = named(probe_processor(), os.environ[TARGET]), float(os.environ[TIMES_SLOWER])
    probe.probe_processor = lambda: here
    for backend in registry.backends().values():
        backend.load = _slowed(backend.load, times)
    return run_job.run(job, report_stage)


def _slowed(load: Callable[..., Any], times: float) -> Callable[..., Any]:
    return lambda bundle, manifest: Slowed(load(bundle, manifest), times)


def main(home: Path, target: str, times_slower: str) -> None:
    os.environ |= {TARGET: target, TIMES_SLOWER: times_slower}
    capabilities = capabilities_of(probe_processor())
    capabilities = capabilities.model_copy(update={"target": named(capabilities.target, target)})
    drain = Cancellation()
    signal.signal(signal.SIGTERM, lambda *_: drain.set())
    with closing(Ledger.at(home)) as ledger, Sandbox(runner=f"{__name__}:run") as sandbox:
        Worker(ledger, sandbox, home, capabilities, say=lambda text: print(text, flush=True)).run(drain, Cancellation())


if __name__ == "__main__":
    # By its own name, which the processes of jobs import it by.
    from tests.end_to_end import slowed_worker

    slowed_worker.main(Path(sys.argv[1]), *sys.argv[2:])
