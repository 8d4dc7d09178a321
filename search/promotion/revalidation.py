"""Revalidation: is what was proven of a deployed version still true, here and now?"""

from __future__ import annotations

from evaluators.errors import IntegrityError
from evaluators.frozen import Frozen
from search.promotion.certificate import Certificate
from search.promotion.gates import AGAIN, Gate, pass_gates
from search.promotion.names import ModelAlias
from search.promotion.promoting import deployed
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
    version, certificate, subject = deployed(ledger, registry, name)
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
