"""Promoting: one trial through every gate, registered, served once, then under the alias that was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from evaluators.bundle import Manifest
from evaluators.errors import InfrastructureError, IntegrityError
from evaluators.frozen import Frozen
from evaluators.profile import WorkloadProfile
from evaluators.stages.reference import example_file
from evaluators.target import Target, probe_targets
from search.mlflow_store import mlflow_fails_as
from search.promotion.card import card_of, clipped_card, tags_of_version
from search.promotion.certificate import Certificate
from search.promotion.gates import ALL_GATES, Gate, Passage, Subject, pass_gates
from search.promotion.names import CHALLENGER, ModelAlias
from search.promotion.registry import Registry, digest_of
from search.promotion.serving import Served, check_serving
from search.result import SearchResult, TrialResult
from search.spec import SearchSpec
from workers.certifying import Certifier
from workers.ledger import Ledger
from workers.locks import registry_lock
from workers.records import SearchRecord
from workers.settings import TrialSettings

Say = Callable[[str], None]


class PromotionReport(Frozen):
    """How a promotion ended.

    Attributes:
        status: ``promoted``, or ``refused`` by one of ``gates``; then the registry is as it was.
        version / previous_version: that the alias points at, and pointed at before; null where there was none.
        uri: what to load to get whatever the alias points at.
        digest: of the bundle.
        served: of the smoke test.
    """

    search: str
    trial: int
    label: str
    model: str
    alias: str
    status: Literal["promoted", "refused"]
    gates: tuple[Gate, ...]
    version: int | None = None
    previous_version: int | None = None
    uri: str
    digest: str | None = None
    served: Served | None = None
    certificate: Certificate | None = None
    notes: tuple[str, ...] = ()

    @property
    def refused(self) -> Gate | None:
        """The gate that refused, if one did."""
        return next((gate for gate in self.gates if gate.status == "refused"), None)

    @property
    def exit_code(self) -> int:
        """0 promoted, 5 refused."""
        return 0 if self.status == "promoted" else IntegrityError.exit_code


def promote_trial(
    ledger: Ledger, home: Path, record: SearchRecord, result: SearchResult, trial: TrialResult, name: ModelAlias,
    certifier: Certifier, *, needs_sealed: bool = True, say: Say = lambda text: None,
) -> PromotionReport:  # fmt: skip
    """Lead a trial through the gates and, if all of them let it pass, register it and move the alias.

    Raises:
        IntegrityError: it passed the gates but cannot be served; the registry is as it was.
        InfrastructureError: the sandbox, the ledger or MLflow failed.
    """
    profile = _profile(record)
    bundle = bundle_of(trial, home)
    subject = Subject(label=f"{record.id}-{trial.number}", bundle=bundle, needs_sealed=needs_sealed,
                      settings=settings_for(record, profile, trial.candidate.target))  # fmt: skip
    say(f"{trial.label}: measuring it again on {trial.candidate.target}")
    passage = pass_gates(subject, certifier, ALL_GATES)
    report = PromotionReport(
        search=record.id, trial=trial.number, label=trial.label, model=name.model, alias=name.alias, uri=name.uri,
        status="refused", gates=passage.gates, digest=passage.manifest.digest if passage.manifest else None,
    )  # fmt: skip
    if passage.refused is not None or passage.manifest is None:
        return report
    certificate = certify(record, profile, trial, passage, passage.manifest, home)
    say(f"every gate passed; registering it as {name.model}")
    others = f"somebody else is moving aliases of {name.model}; this promotion comes after it"
    with registry_lock(home, name.model, waiting=lambda: say(others)):
        registry = Registry(home)
        return _Registration(ledger, home, registry, name, certificate, passage.manifest).complete(
            report, profile, result, trial
        )


class _Registration:
    """The steps behind the gates, and how they are undone where one of them fails; the caller holds the lock."""

    def __init__(
        self, ledger: Ledger, home: Path, registry: Registry, name: ModelAlias, certificate: Certificate,
        manifest: Manifest,
    ) -> None:  # fmt: skip
        self._ledger, self._home, self._registry, self._name = ledger, home, registry, name
        self._certificate, self._manifest = certificate, manifest

    def complete(
        self, report: PromotionReport, profile: WorkloadProfile, result: SearchResult, trial: TrialResult
    ) -> PromotionReport:
        """Register, serve once as ``challenger``, then move the alias; what fails before the last step is undone."""
        name, certificate = self._name, self._certificate
        card = card_of(certificate, self._manifest, profile, str(name))
        before = self._registry.aliases(name.model)
        version = self._register(card, result, trial)
        try:
            self._registry.point(name.model, CHALLENGER, version)
            served = self._serve(version, profile)
            self._attach(trial, version, card)
            self._ledger.certify(name.model, version, certificate.digest, certificate.to_json())
            previous = self._move(version, before)
        except BaseException:
            self._undo(version, before)
            raise
        return report.model_copy(
            update={"status": "promoted", "version": version, "previous_version": previous, "served": served,
                    "certificate": certificate, "notes": self._notes(before)}
        )  # fmt: skip

    def _register(self, card: str, result: SearchResult, trial: TrialResult) -> int:
        from search.tracked_model import log_bundle

        run_id = trial.mlflow_run_id
        if run_id is None:
            raise InfrastructureError(
                f"trial {trial.number} has no run in MLflow; paretune resume {result.name} delivers what is missing"
            )
        client = self._registry.client
        example = example_file(self._home, self._certificate.workload_fingerprint)
        with mlflow_fails_as("log the bundle as a model"):
            experiment = client.get_run(run_id).info.experiment_id
            model_id = log_bundle(client, experiment, run_id, trial, result, example if example.exists() else None)
            source = client.get_logged_model(model_id).artifact_location
        tags = tags_of_version(self._certificate, self._manifest)
        return self._registry.register(self._name.model, source, run_id, model_id, tags, clipped_card(card))

    def _serve(self, version: int, profile: WorkloadProfile) -> Served:
        registered = self._registry.version(self._name.model, version)
        if (found := digest_of(registered)) != self._certificate.digest:
            raise IntegrityError(
                f"the copy in MLflow has the digest {found[:16]}, and the bundle that was measured "
                f"{self._certificate.digest[:16]}; delete the model in MLflow and promote again"
            )
        threads = self._certificate.candidate.runtime.threads
        return check_serving(self._home, f"models:/{self._name.model}/{version}", Path(self._certificate.bundle),
                             profile.reference, threads)  # fmt: skip

    def _attach(self, trial: TrialResult, version: int, card: str) -> None:
        folder = f"promotions/{self._name.model}-{version}"
        with mlflow_fails_as("keep the model card"):
            client = self._registry.client
            client.set_tag(trial.mlflow_run_id, "paretune.promoted", f"{self._name.model}/{version}")
            client.log_text(trial.mlflow_run_id, card, f"{folder}/model_card.md")
            client.log_text(trial.mlflow_run_id, self._certificate.model_dump_json(indent=2),
                            f"{folder}/certificate.json")  # fmt: skip

    def _move(self, version: int, before: dict[str, int]) -> int | None:
        """Keep the version that the alias points at, point it at the new one, and write both down."""
        name = self._name
        previous = before.get(name.alias)
        if previous is not None:
            self._registry.point(name.model, name.previous, previous)
        self._registry.point(name.model, name.alias, version)
        detail = f"trial {self._certificate.search}/{self._certificate.trial} {self._certificate.label}"
        self._ledger.add_alias_step(name.model, name.alias, "promoted", version, previous, detail)
        return previous

    def _undo(self, version: int, before: dict[str, int]) -> None:
        """Put every alias back and withdraw the version; what cannot be undone must not hide why it had to be."""
        for alias in (self._name.alias, self._name.previous, CHALLENGER):
            with suppress(InfrastructureError):
                self._registry.point(self._name.model, alias, before.get(alias))
        with suppress(InfrastructureError):
            self._registry.withdraw(self._name.model, version)

    def _notes(self, before: dict[str, int]) -> tuple[str, ...]:
        steps = self._ledger.alias_steps(self._name.model, self._name.alias)
        known = next((step.version for step in reversed(steps[:-1]) if step.event != "revalidated"), None)
        found = before.get(self._name.alias)
        if found == known:
            return ()
        return (f"{self._name} pointed at version {found}, and paretune had left it at {known}: it was moved by hand",)


def certify(
    record: SearchRecord, profile: WorkloadProfile, trial: TrialResult, passage: Passage, manifest: Manifest, home: Path
) -> Certificate:
    """Write down what a bundle that passed every gate has shown.

    Raises:
        IntegrityError: it has not been measured.
    """
    if passage.measured is None:
        raise IntegrityError(f"trial {trial.number} was not measured again, so nothing is certified")
    spec = SearchSpec.model_validate(record.spec)
    return Certificate(
        search=record.id, trial=trial.number, label=trial.label, home=str(home), bundle=str(bundle_of(trial, home)),
        digest=manifest.digest, candidate=manifest.candidate, target=manifest.candidate.target,
        target_fingerprint=manifest.target_fingerprint, environment=manifest.environment, workload=profile.reference,
        workload_fingerprint=profile.fingerprint, test_digest=profile.data_digests.get("test"),
        constraints=spec.constraints, percentile=spec.percentile, confidence=spec.confidence,
        scored_by=profile.scored_by, measured=passage.measured.evidence, verdicts=passage.measured.verdicts,
        sealed=passage.sealed.evidence.accuracy if passage.sealed else None,
        sealed_verdicts=passage.sealed.verdicts if passage.sealed else (), certified_at=time.time(),
    )  # fmt: skip


def bundle_of(trial: TrialResult, home: Path) -> Path:
    """Return the folder of a trial's bundle."""
    folder = Path(trial.bundle or "")
    return folder if folder.is_absolute() else home / folder


def settings_for(record: SearchRecord, profile: WorkloadProfile, target: str) -> TrialSettings:
    """Return how a bundle of a search is measured: as its trials were."""
    spec = SearchSpec.model_validate(record.spec)
    settings = TrialSettings(
        profile=profile, constraints=spec.constraints, protocol=spec.protocol, seed=spec.seed,
        trial_timeout_s=spec.trial_timeout_s, memory_limit_bytes=spec.memory_limit_bytes,
    )  # fmt: skip
    here: Target | None = next((found for found in probe_targets() if found.name == target), None)
    return settings if here is None else settings.on(here)


def _profile(record: SearchRecord) -> WorkloadProfile:
    if record.profile is None:
        raise IntegrityError(f"search {record.name} never read its workload, so it has nothing to promote")
    return record.profile
