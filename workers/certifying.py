"""Certifying: measure a built bundle again, and score it on the sealed split, each in a fresh sandboxed process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from evaluators.bundle import Manifest
from evaluators.errors import InfrastructureError
from evaluators.jobs import MeasureJob, SealedJob
from evaluators.outcome import Failure, FailureKind, Outcome
from evaluators.target import device_of, devices_of
from workers.deaths import outcome_of_death
from workers.in_use import using
from workers.lease import Cancellation, wait_for
from workers.locks import device_lock
from workers.sandbox import Sandbox
from workers.settings import TrialSettings
from workers.supervisor import device_environment, job_environment
from workers.uploads import bring_workload


class Certifier:
    """Runs the jobs that a promotion asks of a bundle, with the device of its target held.

    Args:
        sandbox: where the jobs run.
        home: folder of the caches; logs go to ``jobs/promotions/LABEL/``.
        device: what is measured on; the first device of the bundle's target unless told.
        locks: folder of the device locks, the user's own unless told.
    """

    def __init__(
        self, sandbox: Sandbox, home: Path, *, device: str | None = None, locks: Path | None = None,
        cancel: Sequence[Cancellation] = (),
    ) -> None:  # fmt: skip
        self._sandbox, self._home = sandbox, home.resolve()
        self._device, self._locks, self._cancel = device, locks, cancel

    def measure(self, label: str, bundle: Path, manifest: Manifest, settings: TrialSettings) -> Outcome:
        """Measure a bundle as a trial is: parity, latency, accuracy, with gates.

        Raises:
            InfrastructureError: the sandbox failed, or it was cancelled.
        """
        job = MeasureJob(bundle=str(bundle), profile=settings.profile, home=str(self._home), seed=settings.seed,
                         constraints=settings.constraints, protocol=settings.protocol)  # fmt: skip
        return self._run(job, label, manifest, settings)

    def score_sealed(self, label: str, bundle: Path, manifest: Manifest, settings: TrialSettings) -> Outcome:
        """Score a bundle on the sealed test split.

        Raises:
            InfrastructureError: the sandbox failed, or it was cancelled.
        """
        job = SealedJob(bundle=str(bundle), profile=settings.profile, home=str(self._home),
                        constraints=settings.constraints, protocol=settings.protocol)  # fmt: skip
        return self._run(job, label, manifest, settings)

    def _run(self, job: MeasureJob | SealedJob, label: str, manifest: Manifest, settings: TrialSettings) -> Outcome:
        bring_workload(job.profile.reference, self._home)
        target = manifest.candidate.target
        device = self._device or next(iter(devices_of(target)), f"{device_of(target)}:0")
        env = job_environment(self._home, manifest.candidate.runtime.threads) | device_environment(device)
        folder = self._home / "jobs" / "promotions" / label / job.job
        with device_lock(device, folder=self._locks, wait=partial(wait_for, self._cancel)) as held, using(self._home):
            if not held:
                raise InfrastructureError(f"{label}: cancelled before there was an answer")
            ended = self._sandbox.run(
                job, folder, timeout_s=settings.trial_timeout_s, memory_limit_bytes=settings.memory_limit_bytes,
                env=env, cancel=self._cancel,
            )  # fmt: skip
        if ended.cancelled:
            raise InfrastructureError(f"{label}: cancelled before there was an answer")
        if ended.result is None:
            return outcome_of_death(ended)
        if ended.result.outcome is None:
            reason = "the job gave no outcome; this is a fault in paretune"
            return Outcome(kind="failed", failure=Failure(kind=FailureKind.ERROR, stage="start", reason=reason))
        return ended.result.outcome
