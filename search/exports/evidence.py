"""What goes along with every export: what was proven of the bundle, where that holds, or that nothing is known."""

from __future__ import annotations

from evaluators.bundle import Manifest
from evaluators.frozen import Frozen
from evaluators.outcome import Constraint
from search.promotion.certificate import Certificate
from search.result import SearchResult, TrialResult

UNKNOWN_WINDOW_MS = 1.0
"""How long a server waits for a batch to fill where nobody measured how long a call takes."""


class ExportEvidence(Frozen):
    """The evidence of an exported bundle.

    Attributes:
        reference: what was exported, as it was named.
        status: ``certified`` passed every gate of a promotion; ``measured`` was measured by a search and not proven
            again; ``unknown`` is a folder of which only the manifest is known.
        digest / target / target_fingerprint / environment: of the bundle, and what its evidence depends on.
        constraints / percentile / confidence: what was asked for, and how surely; empty where ``unknown``.
        certificate: of a promoted version.
        trial: of a search, as ``paretune trials --json`` tells it.
    """

    schema_version: int = 1
    reference: str
    status: str
    digest: str
    label: str
    target: str
    target_fingerprint: str
    environment: dict[str, str]
    constraints: tuple[Constraint, ...] = ()
    percentile: str | None = None
    confidence: float | None = None
    certificate: Certificate | None = None
    trial: TrialResult | None = None

    @property
    def budget_ms(self) -> float | None:
        """The latency budget, if there is one."""
        limits = [limit.max for limit in self.constraints if limit.metric.startswith("latency_")]
        return next((limit for limit in limits if limit is not None), None)

    @property
    def latency_ms(self) -> float | None:
        """The latency of a call with the whole batch at the asked percentile: its upper bound where there is one."""
        if self.certificate is not None:
            measured = self.certificate.measured.latency
            return None if measured is None else measured.bounds[1] if measured.bounds else measured.value
        found = None if self.trial is None else self.trial.latency_ms
        if found is None:
            return None
        return found.bounds[1] if found.bounds else found.ci95[1]


def certified(reference: str, manifest: Manifest, certificate: Certificate) -> ExportEvidence:
    """Return the evidence of a promoted version."""
    return ExportEvidence(
        reference=reference, status="certified", digest=manifest.digest, label=certificate.label,
        target=certificate.target, target_fingerprint=manifest.target_fingerprint, environment=manifest.environment,
        constraints=certificate.constraints, percentile=certificate.percentile, confidence=certificate.confidence,
        certificate=certificate,
    )  # fmt: skip


def measured(reference: str, manifest: Manifest, result: SearchResult, trial: TrialResult) -> ExportEvidence:
    """Return the evidence of a trial of a search."""
    return ExportEvidence(
        reference=reference, status="measured", digest=manifest.digest, label=trial.label,
        target=manifest.candidate.target, target_fingerprint=manifest.target_fingerprint,
        environment=manifest.environment, constraints=result.constraints, percentile=result.percentile,
        confidence=result.confidence, trial=trial,
    )  # fmt: skip


def unknown(reference: str, manifest: Manifest) -> ExportEvidence:
    """Return what is known of a folder: what its manifest says."""
    return ExportEvidence(
        reference=reference, status="unknown", digest=manifest.digest, label=manifest.candidate.label(),
        target=manifest.candidate.target, target_fingerprint=manifest.target_fingerprint,
        environment=manifest.environment,
    )  # fmt: skip


def batching_window_ms(evidence: ExportEvidence) -> float:
    """Return how long a server may wait for a batch: what the budget leaves, at most as long as a call takes."""
    call, budget = evidence.latency_ms, evidence.budget_ms
    if call is None:
        return UNKNOWN_WINDOW_MS
    return round(call if budget is None else min(call, max(0.0, budget - call)), 3)
