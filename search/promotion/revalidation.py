"""Revalidation: is what was proven of a deployed version still true, here and now?"""

from __future__ import annotations

from pathlib import Path

from evaluators.errors import IntegrityError
from evaluators.frozen import Frozen
from search.promotion.certificate import Certificate
from search.promotion.gates import AGAIN, Gate, Subject, pass_gates
from search.promotion.lifecycle import certificate_of
from search.promotion.names import ModelAlias
from search.promotion.promoting import settings_for
from search.promotion.registry import Registry
from workers.certifying import Certifier
from workers.ledger import Ledger


class RevalidationReport(Frozen):
    """Whether the certificate of a deployed version still holds, and what was found.

    ``latency_then_ms`` and ``latency_now_ms`` are of the certificate's percentile; null where a gate came before.
    """

    model: str
    alias: str
    version: int
    holds: bool
    gates: tuple[Gate, ...]
    percentile: str
    latency_then_ms: float | None = None
    latency_now_ms: float | None = None
    certificate: Certificate

    @property
    def exit_code(self) -> int:
        """0 where it holds, 5 otherwise."""
        return 0 if self.holds else IntegrityError.exit_code


def revalidate(ledger: Ledger, registry: Registry, name: ModelAlias, certifier: Certifier) -> RevalidationReport:
    """Lead the very files that are deployed through the gates again, except the sealed split: it is opened once.

    Raises:
        IntegrityError: the version never passed a gate, so it has no certificate.
        UsageError: there is no such alias, or the search that it came from is gone.
        InfrastructureError: the sandbox, the ledger or MLflow failed.
    """
    version = registry.current(name)
    certificate = certificate_of(ledger, name.model, version.version)
    if certificate is None:
        raise IntegrityError(f"{name} points at version {version.version}, which never passed a gate: it has no "
                             "certificate that could hold; run paretune reconcile")  # fmt: skip
    record = ledger.search(certificate.search)
    if record.profile is None:
        raise IntegrityError(f"search {record.name} never read its workload, so nothing of it can be measured again")
    subject = Subject(
        label=f"{name.model}-{version.version}", bundle=Path(version.bundle), digest=certificate.digest,
        settings=settings_for(record, record.profile, certificate.target),
    )  # fmt: skip
    passage = pass_gates(subject, certifier, AGAIN)
    refused = passage.refused
    now = passage.measured.evidence.latency if passage.measured else None
    then = certificate.measured.latency
    detail = "its certificate holds" if refused is None else str(refused)
    ledger.add_alias_step(name.model, name.alias, "revalidated", version.version, version.version, detail)
    registry.tag(name.model, version.version, "paretune.holds", str(refused is None).lower())
    return RevalidationReport(
        model=name.model, alias=name.alias, version=version.version, holds=refused is None, gates=passage.gates,
        percentile=certificate.percentile, latency_then_ms=then and then.value, latency_now_ms=now and now.value,
        certificate=certificate,
    )  # fmt: skip
