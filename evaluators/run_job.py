"""Run one job in this process and answer with a value: what a sandbox child does."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from evaluators.errors import (
    IntegrityError,
    NotFiniteError,
    ParityError,
    TooSlowError,
    UnsupportedError,
    UsageError,
    WorkloadError,
    found_no_space,
    ran_out_of_memory,
)
from evaluators.jobs import (
    CompareJob,
    Job,
    JobResult,
    LoadJob,
    MeasureJob,
    PrepareJob,
    SealedJob,
    SensitivityJob,
    SourceJob,
)
from evaluators.outcome import Failure, FailureKind, Outcome
from evaluators.profile import Problem
from evaluators.stages.clock import StageClock

_KINDS: tuple[tuple[type[BaseException], FailureKind], ...] = (
    (NotFiniteError, FailureKind.NOT_FINITE),
    (ParityError, FailureKind.PARITY),
    (TooSlowError, FailureKind.TIMED_OUT),
    (UnsupportedError, FailureKind.UNSUPPORTED),
)


def run(job: Job, report_stage: Callable[[str], None]) -> JobResult:
    """Run ``job``; what goes wrong inside it comes back as a typed failed outcome.

    A workload that breaks its contract is the user's to mend: a profile, load or sensitivity job answers with the
    problems instead.
    """
    clock = StageClock(report_stage)
    try:
        if isinstance(job, SourceJob):
            from evaluators.stages.sourcing import source

            return JobResult(sourced=source(job, clock))
        if isinstance(job, PrepareJob):
            from evaluators.stages.prepare import prepare

            return JobResult(prepared=prepare(job, clock))
        if isinstance(job, MeasureJob):
            from evaluators.stages.measure import measure

            return JobResult(outcome=measure(job, clock))
        if isinstance(job, CompareJob):
            from evaluators.timing.comparison import compare_bundles

            with clock.stage("compare"):
                return JobResult(comparison=compare_bundles(job))
        if isinstance(job, SensitivityJob):
            from evaluators.stages.sensitivity import sensitivity

            return JobResult(layers=sensitivity(job, clock))
        if isinstance(job, SealedJob):
            from evaluators.stages.sealed import score_sealed

            return JobResult(outcome=score_sealed(job, clock))
        if isinstance(job, LoadJob):
            from evaluators.traffic.load import load_test

            with clock.stage("load test"):
                return JobResult(load=load_test(job))
        from evaluators.profiling import profile_workload

        return profile_workload(job, clock)
    except UsageError as error:
        if job.job in ("profile", "load", "sensitivity"):
            return JobResult(problems=(Problem(level="error", what=str(error)),))
        return _failed(error, FailureKind.ERROR, clock)
    except Exception as error:
        return _failed(error, kind_of(error), clock)


def kind_of(error: BaseException) -> FailureKind:
    """Type an exception."""
    if ran_out_of_memory(error):
        return FailureKind.OUT_OF_MEMORY
    if found_no_space(error):
        return FailureKind.DISK_FULL
    return next((kind for type_, kind in _KINDS if isinstance(error, type_)), FailureKind.ERROR)


def _failed(error: Exception, kind: FailureKind, clock: StageClock) -> JobResult:
    text = " ".join(str(error).split()) or type(error).__name__
    named = isinstance(error, (*(type_ for type_, _ in _KINDS), WorkloadError, IntegrityError))
    failure = Failure(
        kind=kind,
        stage=clock.current,
        reason=(text if named else f"{type(error).__name__}: {text}")[:500],
        details=traceback.format_exc()[-4000:],
    )
    return JobResult(outcome=Outcome(kind="failed", failure=failure, stage_seconds=clock.seconds))
