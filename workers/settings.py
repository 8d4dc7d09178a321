"""TrialSettings: what the trials of a search have in common, as the ledger hands it to whoever runs them."""

from __future__ import annotations

from pydantic import Field

from evaluators.frozen import Frozen
from evaluators.jobs import Protocol
from evaluators.outcome import Constraint
from evaluators.profile import WorkloadProfile
from evaluators.target import Target, probe_processor

DEFAULT_MEMORY_SHARE = 0.8
"""How much of a machine's memory one trial may map unless told."""


def default_memory_limit(target: Target | None = None) -> int:
    """Return the private memory that one trial may map on a machine, this one unless told."""
    return int(DEFAULT_MEMORY_SHARE * (target or probe_processor()).memory_bytes)


class TrialSettings(Frozen):
    """What the trials of a search have in common.

    Attributes:
        trial_timeout_s: time for preparing and measuring together; waiting for the device does not count.
        memory_limit_bytes: private memory that a job may map (Linux only).
        lease_seconds: after so long without a heartbeat a trial is given to somebody else.
        prepare_holds_device: whether preparing would disturb a measurement on the device; it does on a processor,
            and elsewhere it does not, unless told.
        fingerprints: of the search's targets, by name: machines that share a name and differ are not mixed.
    """

    profile: WorkloadProfile
    constraints: tuple[Constraint, ...] = ()
    protocol: Protocol = Protocol()
    seed: int = 0
    trial_timeout_s: float = Field(default=600.0, gt=0)
    memory_limit_bytes: int | None = Field(default=None, gt=0)
    lease_seconds: float = Field(default=60.0, gt=0)
    prepare_holds_device: bool | None = None
    fingerprints: dict[str, str] = Field(default_factory=dict)

    def suits(self, target: Target) -> bool:
        """Whether the machine of ``target`` is such a one as the search means by this name."""
        return self.fingerprints.get(target.name, target.fingerprint) == target.fingerprint

    def on(self, target: Target) -> TrialSettings:
        """Return these settings for the machine of ``target``: where no memory limit is asked, a share of what it has.

        The libraries of an accelerator map far more memory than they use, so nothing is limited there unasked.
        """
        if self.memory_limit_bytes is not None or target.accelerator is not None:
            return self
        return self.model_copy(update={"memory_limit_bytes": default_memory_limit(target)})
