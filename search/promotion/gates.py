"""Gates: what must hold before an alias moves, one after the other; the first that does not hold ends it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaluators.bundle import Manifest, read_manifest
from evaluators.errors import IntegrityError
from evaluators.frozen import Frozen
from evaluators.outcome import Constraint, Outcome, Verdict, describe
from evaluators.target import Target, environment, known_by_name, probe_targets
from search.promotion.certificate import staleness
from search.wording import show_confidence
from workers.certifying import Certifier
from workers.settings import TrialSettings

GateName = Literal["bundle", "freshness", "measured", "sealed"]


class Gate(Frozen):
    """How one gate ended: what was found, and where it refused, what to do.

    ``skipped`` is a gate that the user waived, or that was not reached.
    """

    gate: GateName
    status: Literal["passed", "refused", "skipped"]
    found: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"gate {self.gate} {self.status}: {self.found}{advice}"


@dataclass(frozen=True)
class Subject:
    """What stands before the gates: a bundle, how it was measured, and the digest that it must have, if known."""

    label: str
    bundle: Path
    settings: TrialSettings
    digest: str | None = None
    needs_sealed: bool = True


@dataclass(frozen=True)
class Passage:
    """What a bundle showed at the gates that it reached."""

    gates: tuple[Gate, ...]
    manifest: Manifest | None = None
    measured: Outcome | None = None
    sealed: Outcome | None = None

    @property
    def refused(self) -> Gate | None:
        """The gate that refused, if one did."""
        return next((gate for gate in self.gates if gate.status == "refused"), None)


def pass_gates(subject: Subject, certifier: Certifier, names: Iterable[GateName]) -> Passage:
    """Lead a bundle through the gates in the order of ``names`` until one refuses.

    Raises:
        InfrastructureError: the sandbox failed; no gate has decided anything.
    """
    passage = Passage(())
    for name in names:
        passage = _PASS[name](passage, subject, certifier)
        if passage.refused is not None:
            break
    return passage


def bundle_gate(passage: Passage, subject: Subject, certifier: Certifier) -> Passage:
    """Every file is what was built, and the bundle is the one that was measured."""
    try:
        manifest = read_manifest(subject.bundle)
        if subject.digest is not None and manifest.digest != subject.digest:
            raise IntegrityError(f"bundle {subject.bundle} has the digest {manifest.digest[:16]}, and "
                                 f"{subject.digest[:16]} was measured")  # fmt: skip
    except IntegrityError as error:
        return _with(passage, Gate(gate="bundle", status="refused", found=str(error),
                                   advice="build it again: paretune search with another --name"))  # fmt: skip
    found = f"{len(manifest.files)} files, digest {manifest.digest[:16]}"
    return _with(passage, Gate(gate="bundle", status="passed", found=found), manifest=manifest)


def freshness_gate(passage: Passage, subject: Subject, certifier: Certifier) -> Passage:
    """Runtime versions, driver and hardware are those of the measurement."""
    manifest = _manifest(passage)
    targets = probe_targets()
    stale = staleness(manifest, environment(*manifest.environment), _fingerprint(manifest, targets))
    if stale:
        advice = ("restore that, or search again here: what was measured then says nothing about now"
                  if _has(manifest, targets) else f"promote on a machine of {manifest.candidate.target}")  # fmt: skip
        return _with(passage, Gate(gate="freshness", status="refused", found="; ".join(stale), advice=advice))
    found = f"{manifest.candidate.target} {manifest.target_fingerprint}, {len(manifest.environment)} versions unchanged"
    return _with(passage, Gate(gate="freshness", status="passed", found=found))


def measured_gate(passage: Passage, subject: Subject, certifier: Certifier) -> Passage:
    """Measured once more in a fresh process: parity, and a pass verdict on every limit."""
    outcome = certifier.measure(subject.label, subject.bundle, _manifest(passage), subject.settings)
    confidence = subject.settings.protocol.confidence
    gate = _judged("measured", outcome, subject.settings.constraints, confidence)
    return _with(passage, gate, measured=outcome)


def sealed_gate(passage: Passage, subject: Subject, certifier: Certifier) -> Passage:
    """The accuracy limits hold on the test split that nothing has looked at before."""
    profile = subject.settings.profile
    if "test" not in profile.data_digests:
        found = f"workload {profile.name} had no sealed test split when the search began"
        if not subject.needs_sealed:
            return _with(passage, Gate(gate="sealed", status="skipped", found=f"{found}, and that was accepted"))
        advice = "give Workload(test=…) and search again, or accept it with --without-test"
        return _with(passage, Gate(gate="sealed", status="refused", found=found, advice=advice))
    outcome = certifier.score_sealed(subject.label, subject.bundle, _manifest(passage), subject.settings)
    limits = [limit for limit in subject.settings.constraints if limit.metric in ("accuracy", "accuracy_drop")]
    gate = _judged("sealed", outcome, limits, subject.settings.protocol.confidence)
    return _with(passage, gate, sealed=outcome)


def advice_for(verdicts: Iterable[Verdict], gate: GateName) -> str:
    """Say what to do about limits that are not surely kept."""
    missed = [verdict for verdict in verdicts if verdict.status != "pass"]
    if gate == "sealed":
        if any(verdict.status == "fail" for verdict in missed):
            return "promote another trial; choosing by this split again and again would unseal it"
        return "more test examples would decide it, or a limit that is really meant"
    if any(verdict.status == "fail" for verdict in missed):
        return "this machine is slower now, or the limit too close: see what else runs here, or promote another trial"
    return "measure again on a quieter machine, or promote a trial further from the limit"


def _judged(name: GateName, outcome: Outcome, limits: Iterable[Constraint], confidence: float) -> Gate:
    """Judge an outcome: every one of ``limits`` needs a verdict, and that must be pass."""
    verdicts = {verdict.constraint: verdict for verdict in outcome.verdicts}
    if outcome.failure is not None:
        found = f"{outcome.failure.kind} in {outcome.failure.stage}: {outcome.failure.reason}"
        advice = "log.txt under jobs/promotions in the home tells more"
        return Gate(gate=name, status="refused", found=found, advice=advice)
    unknown = [limit.metric for limit in limits if limit not in verdicts and outcome.gate is None]
    missed = [verdict for verdict in outcome.verdicts if verdict.status != "pass"]
    if missed or unknown:
        found = "; ".join([*map(describe, missed), *(f"{metric} was not measured" for metric in unknown)])
        return Gate(gate=name, status="refused", found=found, advice=advice_for(missed, name))
    kept = ", ".join(describe(verdict) for verdict in outcome.verdicts) or "no limits"
    parity = outcome.evidence.parity
    close = f"; {parity.sqnr_db:.0f} dB from the original model" if parity else ""
    return Gate(gate=name, status="passed", found=f"{kept}, at {show_confidence(confidence)}{close}")


def _fingerprint(manifest: Manifest, targets: Iterable[Target]) -> str | None:
    """Return what this machine is as the bundle's target; what was built for a name alone is for every such machine."""
    found = next((target for target in targets if target.name == manifest.candidate.target), None)
    if found is None:
        return None
    by_name = known_by_name(found.name).fingerprint
    return by_name if manifest.target_fingerprint == by_name else found.fingerprint


def _has(manifest: Manifest, targets: Iterable[Target]) -> bool:
    return any(target.name == manifest.candidate.target for target in targets)


def _manifest(passage: Passage) -> Manifest:
    if passage.manifest is None:
        raise IntegrityError("the gate of the bundle comes first")
    return passage.manifest


def _with(
    passage: Passage, gate: Gate, *, manifest: Manifest | None = None, measured: Outcome | None = None,
    sealed: Outcome | None = None,
) -> Passage:  # fmt: skip
    return Passage(
        (*passage.gates, gate), manifest or passage.manifest, measured or passage.measured, sealed or passage.sealed
    )


_PASS = {"bundle": bundle_gate, "freshness": freshness_gate, "measured": measured_gate, "sealed": sealed_gate}
ALL_GATES: tuple[GateName, ...] = ("bundle", "freshness", "measured", "sealed")
AGAIN: tuple[GateName, ...] = ("bundle", "freshness", "measured")
