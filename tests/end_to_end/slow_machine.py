"""A machine on which every call of a bundle takes a fixed time longer: the product's own jobs, ``run`` wrapped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from evaluators import registry, run_job
from evaluators.jobs import Job, JobResult

DELAY_S = 0.15


class Delayed:
    """A runner that waits before each call."""

    def __init__(self, runner: Any) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)

    def run(self, prepared: Any) -> Any:
        time.sleep(DELAY_S)
        return self._runner.run(prepared)


def run(job: Job, report_stage: Callable[[str], None]) -> JobResult:
    """Do the job as it is always done, with slower calls."""
    for backend in registry.backends().values():
        backend.load = _delayed(backend.load)
    return run_job.run(job, report_stage)


def _delayed(load: Callable[..., Any]) -> Callable[..., Any]:
    return lambda bundle, manifest: Delayed(load(bundle, manifest))
