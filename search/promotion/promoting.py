"""Promoting: one trial through every gate, registered, served once, then under the alias that was asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from evaluators.bundle import Manifest
from evaluators.errors import InfrastructureError, IntegrityError, UsageError
from evaluators.frozen import Frozen
from evaluators.profile import WorkloadProfile
from evaluators.stages.reference import example_file
from evaluators.target import Target, probe_targets
from search.mlflow_store import mlflow_fails_as
from search.promotion.card import card_of, clipped_card, tags_of_version
from search.promotion.certificate import Certificate
from search.promotion.gates import AGAIN, ALL_GATES, Gate, Passage, Subject, pass_gates
from search.promotion.lifecycle import certificate_of
from search.promotion.names import ModelAlias
from search.promotion.registration import Registered, Registration, waits_for
from search.promotion.registry import Registry, Version
from search.promotion.serving import Served
from search.result import SearchResult, TrialResult
from search.spec import SearchSpec
from workers.certifying import Certifier
from workers.lease import registry_lock
from workers.ledger import Ledger
from workers.records import SearchRecord
from workers.settings import TrialSettings
from workers.sharing import Sharing

Say = Callable[[str], None]


class PromotionReport(Frozen):
    """How a promotion ended.

    Attributes:
        status: ``promoted``, or ``refused`` by one of ``gates``; then the registry is as it was.
        version / previous_version: that the alias points at, and pointed at before; null where there was none.
        uri: what to load to get whatever the alias points at.
        digest: of the bundle.
        served: of the smoke test.
        copied_from: the registered model and version that was copied, where it was no trial.
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
    copied_from: str | None = None
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
    card = card_of(certificate, passage.manifest, profile, str(name))
    tags = tags_of_version(certificate, passage.manifest)
    with registry_lock(ledger, name.model, waiting=lambda: say(waits_for(name))):
        registration = Registration(ledger, home, name, certificate)
        done = registration.complete(
            lambda registry: _register(registry, home, certificate, result, trial, name.model, tags, card),
            f"trial {certificate.search}/{certificate.trial} {certificate.label}",
        )
    try:
        _attach(Registry(home), trial, name.model, done.version, card, certificate)
    except InfrastructureError as error:  # it is promoted all the same
        done = done.model_copy(update={"notes": (*done.notes, str(error))})
    return report_of(report, done, certificate)


def promote_version(
    ledger: Ledger, home: Path, source: ModelAlias, name: ModelAlias, certifier: Certifier, *,
    say: Say = lambda text: None,
) -> PromotionReport:  # fmt: skip
    """Copy the version that an alias points at to another registered model: from ``dev@champion`` to ``prod@champion``.

    The deployed files are led through every gate but the sealed one, which they have passed: it is opened once.

    Raises:
        UsageError: there is no such alias, or both are of one registered model.
        IntegrityError: the version never passed a gate, or cannot be served; the registry is as it was.
        InfrastructureError: the sandbox, the ledger or MLflow failed.
    """
    registry = Registry(home)
    version, certificate, subject = deployed(ledger, registry, source)
    if source.model == name.model:
        raise UsageError(f"{source} and {name} are of one registered model; promote a trial, or roll back")
    say(f"{certificate.label}: measuring {source} again on {certificate.target}")
    passage = pass_gates(subject, certifier, AGAIN)
    report = PromotionReport(
        search=certificate.search, trial=certificate.trial, label=certificate.label, model=name.model,
        alias=name.alias, uri=name.uri, status="refused", gates=passage.gates, digest=certificate.digest,
        copied_from=f"{source.model}/{version.version}",
    )  # fmt: skip
    if passage.refused is not None:
        return report
    with registry_lock(ledger, name.model, waiting=lambda: say(waits_for(name))):
        done = Registration(ledger, home, name, certificate).complete(
            lambda opened: opened.copy(source.model, version.version, name.model),
            f"copy of version {version.version} of {source.model}",
        )
    return report_of(report, done, certificate)


def deployed(ledger: Ledger, registry: Registry, name: ModelAlias) -> tuple[Version, Certificate, Subject]:
    """Return the version that an alias points at, its certificate, and its very files as they come before the gates.

    Raises:
        UsageError: there is no such alias, or the search that it came from is gone.
        IntegrityError: the version never passed a gate.
    """
    version = registry.current(name)
    certificate = certificate_of(ledger, name.model, version.version)
    if certificate is None:
        raise IntegrityError(f"{name} points at version {version.version}, which never passed a gate: it has no "
                             "certificate that could hold; run paretune reconcile")  # fmt: skip
    record = ledger.search(certificate.search)
    settings = settings_for(record, _profile(record), certificate.target)
    subject = Subject(label=f"{name.model}-{version.version}", bundle=Path(version.bundle), settings=settings,
                      digest=certificate.digest)  # fmt: skip
    return version, certificate, subject


def report_of(report: PromotionReport, done: Registered, certificate: Certificate) -> PromotionReport:
    """Complete the report of a promotion that was not refused."""
    return report.model_copy(
        update={"status": "promoted", "version": done.version, "previous_version": done.previous_version,
                "served": done.served, "certificate": certificate, "notes": done.notes}
    )  # fmt: skip


def _register(
    registry: Registry, home: Path, certificate: Certificate, result: SearchResult, trial: TrialResult, model: str,
    tags: dict[str, str], card: str,
) -> int:  # fmt: skip
    """Make a version from the trial's bundle, as a model of its run, and return its number."""
    from search.tracked_model import log_bundle

    run_id, client = trial.mlflow_run_id, registry.client
    if run_id is None:
        raise InfrastructureError(
            f"trial {trial.number} has no run in MLflow; paretune resume {result.name} delivers what is missing"
        )
    example = example_file(home, certificate.workload_fingerprint)
    with mlflow_fails_as("log the bundle as a model"):
        experiment = client.get_run(run_id).info.experiment_id
        model_id = log_bundle(client, experiment, run_id, trial, result, example if example.exists() else None)
        source = client.get_logged_model(model_id).artifact_location
    return registry.register(model, source, run_id, model_id, tags, clipped_card(card))


def _attach(
    registry: Registry, trial: TrialResult, model: str, version: int, card: str, certificate: Certificate
) -> None:
    """Keep card and certificate with the trial's run, where people browse."""
    folder = f"promotions/{model}-{version}"
    with mlflow_fails_as("keep the model card"):
        registry.client.set_tag(trial.mlflow_run_id, "paretune.promoted", f"{model}/{version}")
        registry.client.log_text(trial.mlflow_run_id, card, f"{folder}/model_card.md")
        text = certificate.model_dump_json(indent=2)
        registry.client.log_text(trial.mlflow_run_id, text, f"{folder}/certificate.json")


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
    """Return the folder of a trial's bundle, fetched where another home of the fleet built it.

    Raises:
        UsageError: it is neither here nor in the store that the home shares.
        IntegrityError: what is in the store is not what was built.
    """
    return Sharing.of(home).bundle(trial.bundle or "")


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
