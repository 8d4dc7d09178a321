"""Certificate: what was proven of a bundle before it was deployed, and when that stops being true."""

from __future__ import annotations

from evaluators.bundle import Manifest
from evaluators.candidate import Candidate
from evaluators.frozen import Frozen
from evaluators.outcome import AccuracyEvidence, Constraint, Evidence, Verdict


class Certificate(Frozen):
    """The evidence of one bundle on its target, and what that evidence depends on.

    Attributes:
        search / trial / label: where the bundle comes from; ``home`` holds the search.
        bundle / digest: the folder that was measured, and the hash that its copies must have.
        target / target_fingerprint / environment: the hardware with its driver, and the versions of the software.
        workload / workload_fingerprint: whose model, data and metric; ``test_digest`` is that of the sealed split.
        constraints / percentile / confidence: what had to hold, and how surely.
        measured: the evidence of the measurement in a fresh process, and ``verdicts`` on every limit.
        sealed: the score on the sealed test split, and ``sealed_verdicts``; null where the user accepted none.
        certified_at: seconds since the epoch.
    """

    search: str
    trial: int
    label: str
    home: str
    bundle: str
    digest: str
    candidate: Candidate
    target: str
    target_fingerprint: str
    environment: dict[str, str]
    workload: str
    workload_fingerprint: str
    test_digest: str | None
    constraints: tuple[Constraint, ...]
    percentile: str
    confidence: float
    scored_by: str
    measured: Evidence
    verdicts: tuple[Verdict, ...]
    sealed: AccuracyEvidence | None = None
    sealed_verdicts: tuple[Verdict, ...] = ()
    certified_at: float


def staleness(manifest: Manifest, here: dict[str, str], target_fingerprint: str | None) -> tuple[str, ...]:
    """Say what is other here than when the bundle was built and measured: versions, hardware, driver. Empty if nothing.

    Args:
        manifest: of the bundle.
        here: the versions of the same distributions that are installed.
        target_fingerprint: of this machine as the bundle's target, None where it has no such target.
    """
    found = [
        f"{name} is {here.get(name, 'not installed')} here and was {version}"
        for name, version in manifest.environment.items()
        if here.get(name) != version
    ]
    target = manifest.candidate.target
    if target_fingerprint is None:
        found.append(f"this machine has no {target}")
    elif target_fingerprint != manifest.target_fingerprint:
        found.append(f"{target} is another machine or driver here (fingerprint {target_fingerprint}, it was "
                     f"{manifest.target_fingerprint})")  # fmt: skip
    return tuple(found)
