"""Supervisor: runs one trial from claim to finish. The local loop and a Celery task both call exactly this."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from evaluators.errors import InfrastructureError
from evaluators.jobs import CompareJob, Comparison, JobResult, MeasureJob, Prepared, PrepareJob, ProfileJob
from evaluators.outcome import Failure, FailureKind, Outcome
from evaluators.target import device_of, devices_of
from workers.deaths import outcome_of_death
from workers.lease import Cancellation, Heartbeat, owner_name, wait_for
from workers.ledger import Ledger
from workers.locks import device_lock
from workers.records import TrialRecord
from workers.sandbox import AnyJob, Sandbox, SandboxResult
from workers.settings import TrialSettings

# What is left to a measurement whose preparation has used up the trial's time: enough to say so.
_LEAST_SECONDS = 1.0


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
    """

    def __init__(
        self, ledger: Ledger, sandbox: Sandbox, home: Path, *, owner: str | None = None, device: str | None = None,
        locks: Path | None = None,
    ) -> None:  # fmt: skip
        self._ledger = ledger
        self._sandbox = sandbox
        self._home = home.resolve()
        self._owner = owner or owner_name()
        self._device = device
        self._locks = locks

    def run(
        self, trial_id: str, attempt: int, settings: TrialSettings, *, cancel: Sequence[Cancellation] = ()
    ) -> Outcome | None:
        """Run one attempt at a trial and record its outcome.

        Returns:
            The outcome as it was recorded; None where nothing was: the attempt was not there to be claimed, its lease
            was lost, or ``cancel`` was set (then the trial is queued again).

        Raises:
            InfrastructureError: the sandbox or the ledger failed; the trial is queued again where that is possible.
        """
        lease = (trial_id, attempt, self._owner)
        if not self._ledger.claim(*lease, settings.lease_seconds):
            return None
        try:
            with Heartbeat(self._ledger, *lease, settings.lease_seconds) as heartbeat:
                trial = self._ledger.trial(trial_id)
                outcome = self._evaluate(trial, attempt, settings, (*cancel, heartbeat.lost))
            if outcome is not None and self._ledger.finish(*lease, outcome):
                return outcome
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
            InfrastructureError: the sandbox failed.
        """
        job = CompareJob(bundles=tuple(bundles), profile=settings.profile, home=str(self._home), seconds=seconds,
                         protocol=settings.protocol, seed=settings.seed)  # fmt: skip
        device = self._device_for(target)
        env = job_environment(self._home, 1) | device_environment(device)
        with device_lock(device, folder=self._locks, wait=partial(wait_for, cancel)) as held:
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
        folder = self._home / "jobs" / trial.search_id / f"{trial.number}-{attempt}"
        device = self._device_for(trial.candidate.target)
        holds = device == "cpu" if settings.prepare_holds_device is None else settings.prepare_holds_device
        with ExitStack() as stack:

            def hold_device() -> bool:
                wait = partial(wait_for, cancel)
                return stack.enter_context(device_lock(device, folder=self._locks, wait=wait))

            def run(job: AnyJob, timeout_s: float, threads: int) -> SandboxResult:
                limit = settings.memory_limit_bytes
                env = job_environment(self._home, threads) | device_environment(device)
                return self._sandbox.run(
                    job, folder / job.job, timeout_s=timeout_s, memory_limit_bytes=limit, env=env, cancel=cancel
                )

            if holds and not hold_device():
                return None
            made = run(_prepare_job(trial, settings, self._home), settings.trial_timeout_s, _all_cores())
            if made.cancelled:
                return None
            prepared = _answer(made, settings)
            if isinstance(prepared, Outcome):
                return self._complete(trial, prepared, None)
            if not holds and not hold_device():
                return None
            left_s = max(settings.trial_timeout_s - made.seconds, _LEAST_SECONDS)
            threads = trial.candidate.runtime.threads
            measured = run(_measure_job(trial, prepared, settings, self._home), left_s, threads)
        if measured.cancelled:
            return None
        outcome = _answer(measured, settings)
        if isinstance(outcome, Prepared):
            outcome = _unanswered("measure")
        return self._complete(trial, outcome, prepared)

    def _device_for(self, target: str) -> str:
        """Return the device that trials of ``target`` are measured on."""
        return self._device or next(iter(devices_of(target)), f"{device_of(target)}:0")

    def _complete(self, trial: TrialRecord, outcome: Outcome, prepared: Prepared | None) -> Outcome:
        """Add to an outcome what both jobs took and made, what it answers, and how to see a failure again."""
        earlier = prepared or Prepared(bundle="", stage_seconds={})
        again = f"paretune reproduce {trial.search_id} {trial.number} --home {shlex.quote(str(self._home))}"
        return outcome.model_copy(
            update={
                "stage_seconds": _added(earlier.stage_seconds, outcome.stage_seconds),
                "cached_stages": earlier.cached_stages + outcome.cached_stages,
                "bundle": outcome.bundle or earlier.bundle or None,
                "evaluation_key": trial.evaluation_key,
                "reproduce": again if outcome.kind == "failed" else outcome.reproduce,
            }
        )


def _added(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
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
) -> JobResult | None:
    """Read the facts of a workload in a process of its own.

    Returns:
        The profile, or the failed outcome where the workload crashed or could not be read; None if it was cancelled.

    Raises:
        InfrastructureError: the process could not be started, or the home cannot be written to.
    """
    home = home.resolve()
    job = ProfileJob(workload=workload, home=str(home), seed=seed)
    jobs = home / "jobs"
    try:
        jobs.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="profile-", dir=jobs))
    except OSError as error:
        raise InfrastructureError(f"the folder {jobs} cannot be used: {error}") from error
    env = job_environment(home, _all_cores())
    ended = sandbox.run(job, folder, timeout_s=timeout_s, memory_limit_bytes=memory_limit_bytes, env=env, cancel=cancel)
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


def _prepare_job(trial: TrialRecord, settings: TrialSettings, home: Path) -> PrepareJob:
    return PrepareJob(candidate=trial.candidate, profile=settings.profile, home=str(home), seed=settings.seed)


def _measure_job(trial: TrialRecord, prepared: Prepared, settings: TrialSettings, home: Path) -> MeasureJob:
    return MeasureJob(
        bundle=prepared.bundle,
        profile=settings.profile,
        home=str(home),
        constraints=settings.constraints,
        protocol=settings.protocol,
        gates=trial.gates,
        seed=settings.seed,
    )


def _answer(ended: SandboxResult, settings: TrialSettings) -> Prepared | Outcome:
    if ended.result is None:
        # The user set the time of the whole trial, not what was left of it for this job.
        return outcome_of_death(ended.model_copy(update={"timeout_s": settings.trial_timeout_s}))
    return ended.result.outcome or ended.result.prepared or _unanswered(ended.stage or "start")


def _unanswered(stage: str) -> Outcome:
    reason = "the job answered neither with a bundle nor with an outcome; this is a fault in paretune"
    return Outcome(kind="failed", failure=Failure(kind=FailureKind.ERROR, stage=stage, reason=reason))


def _all_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
