"""Supervisor: runs one trial from claim to finish. The local loop and a Celery task both call exactly this."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from evaluators.errors import InfrastructureError, UploadRefusedError
from evaluators.interpreter import Interpreter, this_interpreter
from evaluators.jobs import (
    CompareJob,
    Comparison,
    JobResult,
    MeasureJob,
    Prepared,
    PrepareJob,
    ProfileJob,
    Sourced,
    SourceJob,
    Yardstick,
)
from evaluators.outcome import Failure, FailureKind, Outcome
from evaluators.target import device_of, devices_of
from evaluators.workload import UNPACKED
from workers.deaths import outcome_of_death
from workers.eviction import hold_limit
from workers.in_use import using
from workers.interpreters import Interpreters
from workers.keeping import Keeping
from workers.lease import Cancellation, Heartbeat, owner_name, wait_for
from workers.ledger import Ledger
from workers.locks import device_lock
from workers.meter import Meter, NoMeter
from workers.records import TrialRecord
from workers.sandbox import AnyJob, Sandbox, SandboxResult
from workers.settings import TrialSettings
from workers.sharing import Sharing, topics
from workers.uploads import bring_workload, unpacked_folder

# What is left to a measurement whose preparation has used up the trial's time: enough to say so.
_LEAST_SECONDS = 1.0

_Answer = Sourced | Prepared | Outcome | None


class Supervisor:
    """Claims trials and sees them through to their outcome. One may run trials in several threads.

    Args:
        ledger: where trials are claimed and finished.
        sandbox: where their jobs run.
        home: folder for bundles, caches and job logs (``jobs/SEARCH/NUMBER-ATTEMPT/``).
        owner: the name on the leases, ``owner_name()`` unless told.
        device: what is measured on, ``cuda:1``: one trial at a time holds it on each host; the first device of a
            candidate's target unless told.
        locks: folder of the device locks, the user's own unless told.
        interpreters: the backends that live in an interpreter of their own: their jobs run there.
        keeping: how large the cache of the home may be, and whether uploaded workloads are run.
        say: told of what happens beside the trial, such as that the shared store cannot be reached.
        meter: told of outcomes and of lost leases.
    """

    def __init__(
        self, ledger: Ledger, sandbox: Sandbox, home: Path, *, owner: str | None = None, device: str | None = None,
        locks: Path | None = None, interpreters: Interpreters | None = None, keeping: Keeping | None = None,
        say: Callable[[str], None] = lambda text: None, meter: Meter | None = None,
    ) -> None:  # fmt: skip
        self._meter = meter or NoMeter()
        self._ledger = ledger
        self._sandbox = sandbox
        self._home = home.resolve()
        self._owner = owner or owner_name()
        self._device = device
        self._locks = locks
        self._interpreters = interpreters or Interpreters()
        self._keeping = keeping or Keeping()
        self._sharing = Sharing.of(self._home, say)

    def has_bundle(self, reference: str) -> bool:
        """Whether the bundle that an outcome names is in this home, or can be fetched from the store that it shares."""
        return self._sharing.has_bundle(reference)

    def run(
        self, trial_id: str, attempt: int, settings: TrialSettings, *, cancel: Sequence[Cancellation] = ()
    ) -> Outcome | None:
        """Run one attempt at a trial and record its outcome.

        Returns:
            The outcome as it was recorded; None where nothing was: the attempt was not there to be claimed, its lease
            was lost, or ``cancel`` was set or the job was killed from outside (then the trial is queued again; killed
            a second time it ends so).

        Raises:
            InfrastructureError: the sandbox or the ledger failed, or the disk is full; the trial is queued again where
                that is possible.
        """
        lease = (trial_id, attempt, self._owner)
        if not self._ledger.claim(*lease, settings.lease_seconds):
            return None
        try:
            with Heartbeat(self._ledger, *lease, settings.lease_seconds) as heartbeat:
                with using(self._home):
                    trial = self._ledger.trial(trial_id)
                    outcome = self._evaluate(trial, attempt, settings, (*cancel, heartbeat.lost))
                hold_limit(self._home, self._keeping.cache_limit_bytes)
            if outcome is not None and self._is_disturbed(trial_id, outcome):
                self._ledger.release(*lease, how="disturbed")
                self._stop_where_it_lasts(outcome)
                return None
            if outcome is not None and self._ledger.finish(*lease, outcome):
                self._meter.ended(trial.candidate.target, outcome)
                return outcome
            if outcome is not None or heartbeat.lost.is_set:
                self._meter.lost(trial.candidate.target)
            # Either it was cancelled, or the lease went to somebody else and this is refused.
            self._ledger.release(*lease)
            return None
        except BaseException:
            with suppress(InfrastructureError):
                self._ledger.release(*lease)
            raise

    def compare(
        self,
        search_id: str,
        bundles: Sequence[str],
        settings: TrialSettings,
        seconds: float,
        *,
        target: str = "cpu",
        cancel: Sequence[Cancellation] = (),
    ) -> Comparison | Failure | None:
        """Time built bundles of ``target`` in turn on its device, for at most ``seconds``.

        Returns:
            What was found, or why it could not be; None where ``cancel`` was set.

        Raises:
            InfrastructureError: the sandbox or the shared store failed.
            UsageError: a bundle or the workload is not here, and the store does not have it.
            IntegrityError: what the store has of a bundle is damaged.
        """
        bring_workload(settings.profile.reference, self._home, allowed=self._keeping.uploads)
        here = tuple(str(self._sharing.bundle(bundle)) for bundle in bundles)
        job = CompareJob(bundles=here, profile=settings.profile, home=str(self._home), seconds=seconds,
                         protocol=settings.protocol, seed=settings.seed,
                         interpreters=self._interpreters.starting())  # fmt: skip
        device = self._device_for(target)
        env = job_environment(self._home, 1) | device_environment(device)
        with device_lock(device, folder=self._locks, wait=partial(wait_for, cancel)) as held, using(self._home):
            if not held:
                return None
            ended = self._sandbox.run(
                job, self._home / "jobs" / search_id / "compare", timeout_s=seconds + settings.trial_timeout_s,
                memory_limit_bytes=settings.memory_limit_bytes, env=env, cancel=cancel,
            )  # fmt: skip
        if ended.cancelled:
            return None
        if ended.result is not None and ended.result.comparison is not None:
            return ended.result.comparison
        outcome = _answer(ended, settings)
        return outcome.failure if isinstance(outcome, Outcome) and outcome.failure else _unanswered("compare").failure

    def _evaluate(
        self, trial: TrialRecord, attempt: int, settings: TrialSettings, cancel: Sequence[Cancellation]
    ) -> Outcome | None:
        """Have what the trial needs in this home, run its jobs, and give what they made to those who share it."""
        noted_at = topics(trial.candidate, settings.profile, settings.seed)
        nothing = Prepared(bundle="", stage_seconds={})
        try:
            bring_workload(settings.profile.reference, self._home, allowed=self._keeping.uploads)
        except UploadRefusedError as error:
            refused = Failure(kind=FailureKind.REFUSED, stage="start", reason=str(error))
            return self._complete(trial, Outcome(kind="failed", failure=refused), nothing, "start")
        self._sharing.fetch_stages(noted_at)
        found, earlier, stage = self._run_jobs(trial, attempt, settings, cancel)
        outcome = self._complete(trial, found, earlier, stage)
        if outcome is None:
            return None
        self._sharing.give_stages(earlier.entries, noted_at)
        if outcome.bundle is None:
            return outcome
        kept = self._sharing.keep_bundle(outcome.bundle, partial(wait_for, cancel))
        return outcome.model_copy(update={"bundle": kept})

    def _run_jobs(
        self, trial: TrialRecord, attempt: int, settings: TrialSettings, cancel: Sequence[Cancellation]
    ) -> tuple[_Answer, Prepared, str]:
        """Run the jobs of a trial; return the last answer, what those before it took and made, and its stage."""
        folder = self._home / "jobs" / trial.search_id / f"{trial.number}-{attempt}"
        device = self._device_for(trial.candidate.target)
        holds = device == "cpu" if settings.prepare_holds_device is None else settings.prepare_holds_device
        interpreter = self._interpreters.of(trial.candidate.backend)
        left_s = settings.trial_timeout_s
        with ExitStack() as stack:

            def hold_device() -> bool:
                wait = partial(wait_for, cancel)
                return stack.enter_context(device_lock(device, folder=self._locks, wait=wait))

            def run(job: AnyJob, threads: int, where: Interpreter | None) -> _Answer:
                nonlocal left_s
                env = job_environment(self._home, threads) | device_environment(device)
                ended = self._sandbox.run(
                    job, folder / job.job, timeout_s=max(left_s, _LEAST_SECONDS),
                    memory_limit_bytes=settings.memory_limit_bytes, env=env, cancel=cancel, interpreter=where,
                )  # fmt: skip
                left_s -= ended.seconds
                return None if ended.cancelled else _answer(ended, settings)

            earlier, sourced = Prepared(bundle="", stage_seconds={}), None
            if holds and not hold_device():
                return None, earlier, "prepare"
            if interpreter is not None:
                # What needs the user's model alone is made here, as for all other trials.
                found = run(_source_job(trial, settings, self._home), _all_cores(), None)
                if not isinstance(found, Sourced):
                    return found, earlier, "source"
                sourced, earlier = found, _added(earlier, found)
            found = run(_prepare_job(trial, settings, self._home, sourced), _all_cores(), interpreter)
            if not isinstance(found, Prepared):
                return found, earlier, "prepare"
            prepared, earlier = found, _added(earlier, found)
            if not holds and not hold_device():
                return None, earlier, "measure"
            job = _measure_job(trial, prepared, settings, self._home, sourced)
            found = run(job, trial.candidate.runtime.threads, interpreter)
            return found, earlier, "measure"

    def _is_disturbed(self, trial_id: str, outcome: Outcome) -> bool:
        """Whether the machine ended an attempt, not the candidate, as far as one can tell: it was the first time."""
        if outcome.failure is None or not outcome.failure.kind.is_a_disturbance:
            return False
        return all(attempt.ended_how != "disturbed" for attempt in self._ledger.attempts(trial_id))

    def _stop_where_it_lasts(self, outcome: Outcome) -> None:
        if outcome.failure is not None and outcome.failure.kind == FailureKind.DISK_FULL:
            raise InfrastructureError(f"{outcome.failure.reason}; free some space where {self._home} is")

    def _device_for(self, target: str) -> str:
        """Return the device that trials of ``target`` are measured on."""
        return self._device or next(iter(devices_of(target)), f"{device_of(target)}:0")

    def _complete(self, trial: TrialRecord, found: _Answer, earlier: Prepared, stage: str) -> Outcome | None:
        """Add to an outcome what the jobs before it took and made, what it answers, and how to see a failure again."""
        if found is None:
            return None
        outcome = found if isinstance(found, Outcome) else _unanswered(stage)
        again = f"paretune reproduce {trial.search_id} {trial.number} --home {shlex.quote(str(self._home))}"
        return outcome.model_copy(
            update={
                "stage_seconds": _summed(earlier.stage_seconds, outcome.stage_seconds),
                "cached_stages": earlier.cached_stages + outcome.cached_stages,
                "training_seconds": earlier.training_seconds | outcome.training_seconds,
                "bundle": outcome.bundle or earlier.bundle or None,
                "evaluation_key": trial.evaluation_key,
                "reproduce": again if outcome.kind == "failed" else outcome.reproduce,
            }
        )


def _added(earlier: Prepared, found: Sourced | Prepared) -> Prepared:
    """Return what the jobs of a trial took and made so far."""
    return Prepared(
        bundle=found.bundle if isinstance(found, Prepared) else earlier.bundle,
        stage_seconds=_summed(earlier.stage_seconds, found.stage_seconds),
        cached_stages=earlier.cached_stages + found.cached_stages,
        entries=earlier.entries | found.entries,
        training_seconds=earlier.training_seconds | found.training_seconds,
    )


def _summed(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {name: one.get(name, 0.0) + other.get(name, 0.0) for name in (one | other)}


def run_profile(
    sandbox: Sandbox,
    home: Path,
    workload: str,
    *,
    seed: int = 0,
    timeout_s: float = 600.0,
    memory_limit_bytes: int | None = None,
    cancel: Sequence[Cancellation] = (),
    uploads: bool = True,
) -> JobResult | None:
    """Read the facts of a workload in a process of its own.

    Returns:
        The profile, or the failed outcome where the workload crashed or could not be read; None if it was cancelled.

    Raises:
        InfrastructureError: the process could not be started, or the home cannot be written to.
        UploadRefusedError: the workload was uploaded, and ``uploads`` are not allowed or its archive is not there.
    """
    home = home.resolve()
    bring_workload(workload, home, allowed=uploads)
    job = ProfileJob(workload=workload, home=str(home), seed=seed)
    jobs = home / "jobs"
    try:
        jobs.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="profile-", dir=jobs))
    except OSError as error:
        raise InfrastructureError(f"the folder {jobs} cannot be used: {error}") from error
    env = job_environment(home, _all_cores())
    with using(home):
        ended = sandbox.run(
            job, folder, timeout_s=timeout_s, memory_limit_bytes=memory_limit_bytes, env=env, cancel=cancel
        )
    if ended.cancelled:
        return None
    return ended.result or JobResult(outcome=outcome_of_death(ended))


def job_environment(home: Path, threads: int) -> dict[str, str]:
    """Return what the libraries of a job read from the environment: threads, caches, and no calls home."""
    count = str(threads)
    return {
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": count,
        "NUMEXPR_NUM_THREADS": count,
        "VECLIB_MAXIMUM_THREADS": count,
        UNPACKED: str(unpacked_folder(home)),
        "TORCHINDUCTOR_CACHE_DIR": str(home / "cache" / "inductor"),
        # A pool of compilers would outlive the limits of its job and disturb measurements.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        # NNCF and OpenVINO send usage data unless they believe to run in a build service (openvino_telemetry asks
        # for this name); CI=true would say the same, but users' own code reads that.
        "NNCF_CI": "1",
        "TF_BUILD": "paretune",
    }


def device_environment(device: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what makes a job see one GPU and no other, ``cuda:1``; nothing for what is no GPU.

    The number counts those that ``environment`` leaves to this process, in the order in which the driver counts them.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return {}
    left = environment.get("CUDA_VISIBLE_DEVICES")
    names = left.split(",") if left else []
    chosen = names[int(number)].strip() if int(number or 0) < len(names) else number or "0"
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": chosen}


def _source_job(trial: TrialRecord, settings: TrialSettings, home: Path) -> SourceJob:
    return SourceJob(candidate=trial.candidate, profile=settings.profile, home=str(home), seed=settings.seed,
                     time_limit_s=settings.trial_timeout_s)  # fmt: skip


def _prepare_job(trial: TrialRecord, settings: TrialSettings, home: Path, sourced: Sourced | None) -> PrepareJob:
    return PrepareJob(
        candidate=trial.candidate, profile=settings.profile, home=str(home), seed=settings.seed, sourced=sourced,
        time_limit_s=settings.trial_timeout_s,
    )  # fmt: skip


def _measure_job(
    trial: TrialRecord, prepared: Prepared, settings: TrialSettings, home: Path, sourced: Sourced | None
) -> MeasureJob:
    return MeasureJob(
        bundle=prepared.bundle,
        profile=settings.profile,
        home=str(home),
        constraints=settings.constraints,
        protocol=settings.protocol,
        gates=trial.gates,
        seed=settings.seed,
        yardstick=sourced and Yardstick(interpreter=this_interpreter(), versions=sourced.versions),
    )


def _answer(ended: SandboxResult, settings: TrialSettings) -> Sourced | Prepared | Outcome:
    if ended.result is None:
        # The user set the time of the whole trial, not what was left of it for this job.
        return outcome_of_death(ended.model_copy(update={"timeout_s": settings.trial_timeout_s}))
    found = ended.result.outcome or ended.result.prepared or ended.result.sourced
    return found or _unanswered(ended.stage or "start")


def _unanswered(stage: str) -> Outcome:
    reason = "the job answered neither with a bundle nor with an outcome; this is a fault in paretune"
    return Outcome(kind="failed", failure=Failure(kind=FailureKind.ERROR, stage=stage, reason=reason))


def _all_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
