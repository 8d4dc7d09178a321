"""One candidate through the jobs of a trial: prepared and measured, each in a process of its own, with a time limit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from evaluators.candidate import Candidate
from evaluators.jobs import Job, JobResult, MeasureJob, PrepareJob, ProfileJob
from evaluators.outcome import Constraint, Outcome
from evaluators.profile import WorkloadProfile
from workers.deaths import outcome_of_death
from workers.sandbox import Sandbox
from workers.supervisor import job_environment

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def reference(example: str) -> str:
    """Return how the workload of an example is loaded."""
    return f"{EXAMPLES / example / 'workload.py'}:workload"


class Trials:
    """Runs candidates as a search does, without a ledger; a process that dies is a typed outcome as there."""

    def __init__(self, home: Path, timeout_s: float) -> None:
        self.home = home.resolve()
        self._timeout_s = timeout_s
        self._sandbox = Sandbox()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sandbox.close()

    def profile(self, example: str) -> WorkloadProfile:
        """Read the workload of an example.

        Raises:
            SystemExit: it cannot be read, for instance because its assets were not fetched.
        """
        cores = os.cpu_count() or 1
        found = self._run(ProfileJob(workload=reference(example), home=str(self.home)), f"profile-{example}", cores)
        if isinstance(found, Outcome) or found.profile is None:
            raise SystemExit(f"the example {example} cannot be read: {found}")
        return found.profile

    def run(
        self, candidate: Candidate, profile: WorkloadProfile, *, constraints: Sequence[Constraint] = (),
        gates: bool = False,
    ) -> Outcome:  # fmt: skip
        """Prepare and measure a candidate."""
        name, home = candidate.hash, str(self.home)
        job = PrepareJob(candidate=candidate, profile=profile, home=home)
        prepared = self._run(job, f"{name}-prepare", os.cpu_count() or 1)
        if isinstance(prepared, Outcome):
            return prepared
        if prepared.prepared is None:
            return _answered(prepared)
        made = prepared.prepared
        measure = MeasureJob(bundle=made.bundle, profile=profile, home=home, constraints=tuple(constraints),
                             gates=gates)  # fmt: skip
        measured = self._run(measure, f"{name}-measure", candidate.runtime.threads)
        outcome = measured if isinstance(measured, Outcome) else _answered(measured)
        return outcome.model_copy(
            update={"stage_seconds": made.stage_seconds | outcome.stage_seconds, "cached_stages": made.cached_stages}
        )

    def _run(self, job: Job, name: str, threads: int) -> JobResult | Outcome:
        ended = self._sandbox.run(
            job, self.home / "jobs" / name, timeout_s=self._timeout_s, env=job_environment(self.home, threads)
        )
        return outcome_of_death(ended) if ended.result is None else ended.result


def _answered(result: JobResult) -> Outcome:
    if result.outcome is None:
        raise SystemExit(f"a job gave neither a bundle nor an outcome: {result}")
    return result.outcome
