"""Supervisor: runs one trial from claim to finish. The local loop and a Celery task both call exactly this."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

from pydantic import Field

from evaluators.errors import InfrastructureError
from evaluators.frozen import Frozen
from evaluators.jobs import JobResult, MeasureJob, PrepareJob, ProfileJob, Protocol
from evaluators.outcome import Constraint, Failure, FailureKind, Outcome
from evaluators.profile import WorkloadProfile
from workers.deaths import outcome_of_death
from workers.lease import Cancellation, Heartbeat, owner_name, wait_for
from workers.ledger import Ledger
from workers.locks import device_lock
from workers.records import TrialRecord
from workers.sandbox import AnyJob, Sandbox, SandboxResult

# What is left to a measurement whose preparation has used up the trial's time: enough to say so.
_LEAST_SECONDS = 1.0


class TrialSettings(Frozen):
    """What the trials of a search have in common.

    Attributes:
        trial_timeout_s: time for preparing and measuring together; waiting for the device does not count.
        memory_limit_bytes: private memory that a job may map (Linux only).
        lease_seconds: after so long without a heartbeat a trial is given to somebody else.
        device: what is measured on; one trial at a time holds it on each host.
        prepare_holds_device: whether preparing would disturb a measurement on the device, as it does on a CPU.
    """

    profile: WorkloadProfile
    constraints: tuple[Constraint, ...] = ()
    protocol: Protocol = Protocol()
    seed: int = 0
    trial_timeout_s: float = Field(default=600.0, gt=0)
    memory_limit_bytes: int | None = Field(default=None, gt=0)
    lease_seconds: float = Field(default=60.0, gt=0)
    device: str = "cpu"
    prepare_holds_device: bool = True


class Supervisor:
    """Claims trials and sees them through to their outcome. One may run trials in several threads.

    Args:
        ledger: where trials are claimed and finished.
        sandbox: where their jobs run.
        home: folder for bundles, caches and job logs (``jobs/SEARCH/NUMBER-ATTEMPT/``).
        owner: the name on the leases, ``owner_name()`` unless told.
        locks: folder of the device locks, the user's own unless told.
    """

    def __init__(
        self, ledger: Ledger, sandbox: Sandbox, home: Path, *, owner: str | None = None, locks: Path | None = None
    ) -> None:
        self._ledger = ledger
        self._sandbox = sandbox
        self._home = home.resolve()
        self._owner = owner or owner_name()
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

    def _evaluate(
        self, trial: TrialRecord, attempt: int, settings: TrialSettings, cancel: Sequence[Cancellation]
    ) -> Outcome | None:
        candidate, common = trial.candidate, {"profile": settings.profile, "home": str(self._home)}
        phase = partial(self._phase, trial, attempt, settings, cancel)
        with ExitStack() as stack:
            hold = partial(device_lock, settings.device, folder=self._locks, wait=partial(wait_for, cancel))
            if settings.prepare_holds_device and not stack.enter_context(hold()):
                return None
            prepare = PrepareJob.model_validate(common | {"candidate": candidate, "seed": settings.seed})
            made = phase("prepare", prepare, settings.trial_timeout_s, _all_cores())
            if made.cancelled:
                return None
            answer = _answer(made, settings)
            if answer.prepared is None:
                return self._complete(trial, answer, JobResult())
            if not settings.prepare_holds_device and not stack.enter_context(hold()):
                return None
            measure = MeasureJob(
                bundle=answer.prepared.bundle,
                profile=settings.profile,
                home=str(self._home),
                constraints=settings.constraints,
                protocol=settings.protocol,
                gates=trial.gates,
                seed=settings.seed,
            )
            left_s = max(settings.trial_timeout_s - made.seconds, _LEAST_SECONDS)
            measured = phase("measure", measure, left_s, candidate.runtime.threads)
            return None if measured.cancelled else self._complete(trial, _answer(measured, settings), answer)
