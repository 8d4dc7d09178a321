"""Sensitivities: the layers of a workload's model ranked in a sandboxed process."""

from __future__ import annotations

import uuid
from pathlib import Path

from evaluators.errors import InfrastructureError, UnsupportedError, UsageError
from evaluators.jobs import SensitivityJob
from evaluators.outcome import FailureKind
from evaluators.profile import WorkloadProfile
from evaluators.sensitivity import LayerSensitivity
from evaluators.target import probe_processor
from workers.deaths import outcome_of_death
from workers.in_use import using
from workers.sandbox import Sandbox
from workers.settings import default_memory_limit
from workers.supervisor import job_environment

TIMEOUT_S = 1800.0


def run_sensitivity(
    sandbox: Sandbox, home: Path, profile: WorkloadProfile, *, timeout_s: float = TIMEOUT_S
) -> tuple[LayerSensitivity, ...]:
    """Return the layers of the model of ``profile``, those first that int8 costs most; its log is in ``jobs/``.

    Raises:
        UsageError: the model has no layer that can be measured.
        UnsupportedError: it cannot be measured layer by layer.
        InfrastructureError: the sandbox failed, or the process died.
    """
    home = home.resolve()
    folder = home / "jobs" / f"sensitivity-{uuid.uuid4().hex[:8]}"
    env = job_environment(home, probe_processor().cores)
    with using(home):
        ended = sandbox.run(SensitivityJob(profile=profile, home=str(home)), folder, timeout_s=timeout_s,
                            memory_limit_bytes=default_memory_limit(), env=env)  # fmt: skip
    result = ended.result
    if result is not None and result.layers is not None:
        return result.layers
    if result is not None and result.problems:
        raise UsageError("; ".join(problem.what for problem in result.problems))
    failure = ((result and result.outcome) or outcome_of_death(ended)).failure
    if failure is None:
        raise InfrastructureError("the measurement of the layers gave no answer; this is a fault in paretune")
    if failure.kind == FailureKind.UNSUPPORTED:
        raise UnsupportedError(failure.reason)
    told = f"ended as {failure.kind}: {failure.reason}; its log is {folder / 'log.txt'}"
    raise InfrastructureError(f"the measurement of the layers {told}")
