"""Model card and tags of a version: what it is, what was proven of it, where it holds, how to see that again."""

from __future__ import annotations

import json
import time

from evaluators.bundle import Manifest
from evaluators.outcome import Evidence, ServerEvidence, Verdict
from evaluators.profile import WorkloadProfile
from search.promotion.certificate import Certificate
from search.units import show_bytes, show_ms
from search.wording import (
    show_confidence,
    show_drop,
    show_interval,
    show_limit,
    show_metric,
    show_rate,
    show_score,
    show_serving,
)

LONGEST = 5000
"""What MLflow's store keeps of a version's description."""


def card_of(certificate: Certificate, manifest: Manifest, profile: WorkloadProfile, name: str) -> str:
    """Write the model card in Markdown."""
    share = 0 <= profile.accuracy <= 1
    parts = [
        f"# {name}",
        *_what(certificate, manifest, profile),
        "## Data",
        *_data(certificate, profile),
        "## Evidence",
        *_evidence(certificate, share),
        "## Limits",
        *[f"- {show_limit(limit, share)}" for limit in certificate.constraints],
        f"- Every verdict is drawn at {show_confidence(certificate.confidence)}.",
        "- Latency is that of one call with the whole batch, without transport, on the environment below.",
        *_caveats(certificate, manifest),
        "## Environment",
        f"- {certificate.target}, fingerprint `{certificate.target_fingerprint}`",
        *[f"- {name} {version}" for name, version in certificate.environment.items()],
        "## See it again",
        f"- `paretune reproduce {certificate.search} {certificate.trial}`",
        f"- bundle `{certificate.digest}`",
    ]
    return "\n".join(parts)


def tags_of_version(certificate: Certificate, manifest: Manifest) -> dict[str, str]:
    """Return the evidence as tags, each value as it was measured."""
    measured = certificate.measured
    facts: dict[str, object] = {
        "certified": "true", "search": certificate.search, "trial": f"{certificate.search}/{certificate.trial}",
        "label": certificate.label, "digest": certificate.digest, "target": certificate.target,
        "target_fingerprint": certificate.target_fingerprint, "backend": certificate.candidate.backend,
        "scheme": certificate.candidate.quantization.scheme, "structure": certificate.candidate.pruning.structure,
        "batch_size": certificate.candidate.batch_size, "confidence": certificate.confidence,
        "workload": certificate.workload, "scored_by": certificate.scored_by,
        "certified_at": _date(certificate.certified_at), "throughput_per_s": measured.throughput_per_s,
        "size_bytes": measured.size_bytes, "peak_memory_bytes": measured.peak_memory_bytes,
    }  # fmt: skip
    if measured.latency is not None:
        facts[f"latency_{certificate.percentile}_ms"] = measured.latency.value
        facts["latency_ci95_ms"] = json.dumps(measured.latency.ci95)
    for prefix, score in (("", measured.accuracy), ("sealed_", certificate.sealed)):
        if score is not None:
            facts |= {f"{prefix}accuracy": score.accuracy, f"{prefix}accuracy_drop": score.drop,
                      f"{prefix}examples": score.examples,
                      f"{prefix}accuracy_drop_ci95": score.drop_ci95 and json.dumps(score.drop_ci95)}  # fmt: skip
    for prefix, verdicts in (("verdict", certificate.verdicts), ("sealed_verdict", certificate.sealed_verdicts)):
        facts |= {f"{prefix}.{verdict.constraint.metric}": verdict.status for verdict in verdicts}
    if certificate.sealed is None:
        facts["sealed"] = "none"
    return {f"paretune.{name}": str(value) for name, value in facts.items() if value is not None}


def clipped_card(card: str) -> str:
    """Shorten a card to what a version's description holds; the whole card is an artifact of the trial's run."""
    tail = "\n…"
    return card if len(card) <= LONGEST else card[: LONGEST - len(tail)] + tail


def _what(certificate: Certificate, manifest: Manifest, profile: WorkloadProfile) -> list[str]:
    lines = [f"{certificate.label} of workload {profile.name}, for {certificate.target}."]
    inputs = ", ".join(f"{tensor.name} {tensor.dtype}{_shape(tensor.shape)}" for tensor in manifest.inputs.tensors)
    lines.append(
        f"\nTakes {inputs} in batches of {manifest.candidate.batch_size}; other numbers of rows are filled up."
    )
    if manifest.preprocessing is not None:
        lines.append(f"\nPreprocessing: {manifest.preprocessing.description or manifest.preprocessing.file}")
    if manifest.licences:
        lines.append("\nLicences: " + ", ".join(f"{of} {licence}" for of, licence in manifest.licences.items()))
    return lines


def _data(certificate: Certificate, profile: WorkloadProfile) -> list[str]:
    splits = [f"- {name}: `{digest[:16]}`" for name, digest in sorted(profile.data_digests.items())]
    return [f"- scored by {certificate.scored_by}; the original model: {show_score(profile.accuracy)}", *splits]


def _evidence(certificate: Certificate, share: bool) -> list[str]:
    measured = certificate.measured
    lines = _latency(measured, certificate.percentile)
    for name, score in (("validation", measured.accuracy), ("sealed test", certificate.sealed)):
        if score is not None:
            spread = show_interval("accuracy_drop", score.drop_ci95, share)
            shown = show_interval("accuracy", score.ci95)
            lines.append(f"- accuracy on {name}: {show_score(score.accuracy)}{_of(shown)}, drop "
                         f"{show_drop(score.drop, share)}{_of(spread)}, {score.examples} examples")  # fmt: skip
    lines.append(f"- size {show_bytes(measured.size_bytes)}, memory {show_bytes(measured.peak_memory_bytes)}")
    lines += [_verdict(verdict, "validation", share) for verdict in certificate.verdicts]
    lines += [_verdict(verdict, "sealed test", share) for verdict in certificate.sealed_verdicts]
    return [*lines, f"- certified {_date(certificate.certified_at)}"]


def _latency(measured: Evidence, percentile: str) -> list[str]:
    if measured.latency is None:
        return []
    latency = measured.latency
    shown = show_interval("latency_ms", latency.ci95)
    served = [] if measured.server is None else [_served(measured.server)]
    return [*served, f"- latency {percentile} {show_ms(latency.value)}{_of(shown)}, p50 {show_ms(latency.p50)}, "
            f"{latency.samples} calls; {show_rate(measured.throughput_per_s)}"]  # fmt: skip


def _served(server: ServerEvidence) -> str:
    shown = show_interval("latency_ms", server.ci95)
    up_to = "" if server.sustained_per_s is None else f"; within the budget up to {show_rate(server.sustained_per_s)}"
    return (f"- requests at random: {server.percentile} {show_ms(server.value)}{_of(shown)} at "
            f"{show_rate(server.rate_per_s)}, {show_serving(server)}{up_to}")  # fmt: skip


def _verdict(verdict: Verdict, where: str, share: bool) -> str:
    metric = verdict.constraint.metric
    on = f" on {where}" if metric.startswith("accuracy") else ""
    value = show_metric(metric, verdict.value, share)
    return f"- {show_limit(verdict.constraint, share)}{on}: {verdict.status} with {value}"


def _caveats(certificate: Certificate, manifest: Manifest) -> list[str]:
    lines = []
    if certificate.sealed is None:
        lines.append("- No sealed test split: that accuracy was chosen on validation is not corrected for.")
    if manifest.candidate.backend == "eager":
        lines.append("- Loading it runs the workload's own code.")
    return lines


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _of(interval: str) -> str:
    return f" (95 %: {interval})" if interval else ""


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))
