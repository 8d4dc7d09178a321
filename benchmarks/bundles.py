"""Bundles for the benchmarks: built through the jobs of a trial, each job in a process of its own as in a search."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evaluators.candidate import Candidate
    from evaluators.jobs import Job, JobResult
    from evaluators.profile import WorkloadProfile

HERE = Path(__file__).resolve().parent
IMAGES = f"{HERE.parent / 'examples' / 'images' / 'workload.py'}:workload"
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Built:
    """One candidate of a workload as a bundle."""

    candidate: Candidate
    profile: WorkloadProfile
    bundle: str
    home: Path


class Workshop:
    """Runs jobs in processes forked from one server, as a search does."""

    def __init__(self, home: Path, threads: int) -> None:
        from workers.sandbox import Sandbox

        self.home = home.resolve()
        self._threads = threads
        self._sandbox = Sandbox()

    def close(self) -> None:
        """End the server."""
        self._sandbox.close()

    def run(self, job: Job, name: str) -> JobResult:
        """Run one job; a job that gave no answer ends the benchmark."""
        from workers.supervisor import job_environment

        ended = self._sandbox.run(
            job, self.home / "jobs" / name, timeout_s=TIMEOUT_S, env=job_environment(self.home, self._threads)
        )
        if ended.result is None:
            raise SystemExit(f"job {name} ended without an answer: {ended.log_tail}")
        return ended.result

    def profile(self, workload: str = IMAGES) -> WorkloadProfile:
        """Read the workload."""
        from evaluators.jobs import ProfileJob

        found = self.run(ProfileJob(workload=workload, home=str(self.home)), "profile").profile
        if found is None:
            raise SystemExit(f"{workload} cannot be profiled")
        return found

    def build(self, wanted: Sequence[tuple[str, str]], batch_size: int, workload: str = IMAGES) -> list[Built]:
        """Build the known-good candidate of each (backend, scheme)."""
        from evaluators.jobs import PrepareJob
        from evaluators.space import derive_space
        from evaluators.target import probe_target

        profile = self.profile(workload)
        space = derive_space(profile, probe_target(), batch_sizes=(batch_size,), threads=self._threads)
        built = []
        for backend, scheme in wanted:
            if backend not in space.schemes:
                print(f"{backend} is left out: it cannot be used here", file=sys.stderr)
                continue
            candidate = space.recipe(backend, scheme, batch_size, self._threads)
            print(f"building {candidate.label()}", file=sys.stderr)
            answer = self.run(PrepareJob(candidate=candidate, profile=profile, home=str(self.home)), "prepare")
            if answer.prepared is None:
                raise SystemExit(f"{candidate.label()} was not built: {answer.outcome and answer.outcome.reason}")
            built.append(Built(candidate, profile, answer.prepared.bundle, self.home))
        return built
