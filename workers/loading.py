"""Loading: a load test in a sandboxed process, with the device of the bundle's target held meanwhile."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from evaluators.candidate import Candidate
from evaluators.errors import InfrastructureError, UnsupportedError, UsageError
from evaluators.jobs import LoadJob
from evaluators.outcome import FailureKind
from evaluators.target import device_of, devices_of
from evaluators.traffic.values import LoadReport
from workers.deaths import outcome_of_death
from workers.lease import Cancellation, wait_for
from workers.locks import device_lock
from workers.sandbox import Sandbox, SandboxResult
from workers.settings import default_memory_limit
from workers.supervisor import device_environment, job_environment

TIMEOUT_S = 3600.0


def run_load(
    sandbox: Sandbox, home: Path, job: LoadJob, candidate: Candidate | None, *, timeout_s: float = TIMEOUT_S,
    locks: Path | None = None, cancel: Sequence[Cancellation] = (),
) -> LoadReport:  # fmt: skip
    """Put a bundle of ``candidate``, or a URL where that is None, under load; its log is in ``jobs/loadtests``.

    Nothing else is measured on the device meanwhile. A URL holds none: who serves it is not known.

    Raises:
        UsageError: the bundle, the URL or the requests cannot be used.
        InfrastructureError: the sandbox failed, the process died, nobody answers, or ``cancel`` was set.
    """
    folder = home.resolve() / "jobs" / "loadtests" / uuid.uuid4().hex[:8]
    env = job_environment(home, candidate.runtime.threads if candidate else 1)
    with ExitStack() as stack:
        if candidate is not None:
            device = next(iter(devices_of(candidate.target)), f"{device_of(candidate.target)}:0")
            env |= device_environment(device)
            if not stack.enter_context(device_lock(device, folder=locks, wait=partial(wait_for, cancel))):
                raise InfrastructureError("the load test was cancelled")
        ended = sandbox.run(job, folder, timeout_s=timeout_s, memory_limit_bytes=default_memory_limit(), env=env,
                            cancel=cancel)  # fmt: skip
    return _report_of(ended, folder)


def _report_of(ended: SandboxResult, folder: Path) -> LoadReport:
    if ended.cancelled:
        raise InfrastructureError("the load test was cancelled")
    result = ended.result
    if result is not None and result.load is not None:
        return result.load
    if result is not None and result.problems:
        raise UsageError("; ".join(problem.what for problem in result.problems))
    outcome = (result and result.outcome) or outcome_of_death(ended)
    failure = outcome.failure
    if failure is None:
        raise InfrastructureError("the load test gave no answer; this is a fault in paretune")
    if failure.kind == FailureKind.UNSUPPORTED:
        raise UnsupportedError(f"{failure.reason}; its log is {folder / 'log.txt'}")
    raise InfrastructureError(
        f"the load test ended as {failure.kind}: {failure.reason}; its log is {folder / 'log.txt'}"
    )
