"""Measure one candidate on a bare machine, without ledger or search: ``python -m evaluators WORKLOAD [CANDIDATE]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from evaluators.candidate import Candidate, parse_candidate
from evaluators.errors import ParetuneError
from evaluators.jobs import JobResult, MeasureJob, PrepareJob, ProfileJob, Protocol
from evaluators.run_job import run
from evaluators.target import probe_target
from evaluators.workload import absolute_reference


def main() -> int:
    """Print the outcome as JSON; 0 if it was measured, 2 if the workload cannot be used, 4 if it failed."""
    parser = argparse.ArgumentParser(prog="python -m evaluators", description=__doc__)
    parser.add_argument("workload", help="path/to/file.py:attribute or package.module:attribute")
    parser.add_argument("candidate", nargs="?", help="JSON, as a trial shows it; eager fp32 at batch 1 without")
    parser.add_argument("--home", default=".paretune", help="folder for caches and bundles")
    parser.add_argument("--percentile", default="p95", choices=("p50", "p90", "p95", "p99"))
    given = parser.parse_args()
    home = str(Path(given.home).resolve())
    try:
        target = probe_target().name
        candidate = parse_candidate(given.candidate) if given.candidate else Candidate(target=target, backend="eager")
        answer = evaluate(absolute_reference(given.workload), candidate, home, Protocol(percentile=given.percentile))
    except (ParetuneError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if answer.outcome is None:
        for problem in answer.problems:
            print(f"error: {problem.what}", file=sys.stderr)
        return 2
    print(answer.outcome.model_dump_json(indent=2))
    return 0 if answer.outcome.kind == "measured" else 4


def evaluate(workload: str, candidate: Candidate, home: str, protocol: Protocol) -> JobResult:
    """Profile, prepare and measure in this process; the first job that fails is the answer."""
    profiled = run(ProfileJob(workload=workload, home=home), _show)
    if profiled.profile is None:
        return profiled
    prepared = run(PrepareJob(candidate=candidate, profile=profiled.profile, home=home), _show)
    if prepared.prepared is None:
        return prepared
    bundle = prepared.prepared.bundle
    job = MeasureJob(bundle=bundle, profile=profiled.profile, home=home, constraints=(), protocol=protocol)
    return run(job, _show)


def _show(stage: str) -> None:
    print(stage, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
