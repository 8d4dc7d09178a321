"""Diff: two bundles on the same real data: what they answer, how fast, how well, how large."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluators.bundle import Manifest, read_manifest, size_bytes
from evaluators.errors import InfrastructureError, UsageError
from evaluators.frozen import Frozen
from evaluators.jobs import Comparison
from evaluators.outcome import Interval, Ratio
from evaluators.profile import WorkloadProfile
from evaluators.run_bundle import BundleRun
from evaluators.scoring import agreement
from evaluators.statistics.scores import drop_of
from evaluators.target import probe_targets
from search.bundles import find_bundle, run_bundle
from search.final_comparison import ratio_of
from search.promotion.names import parse_model_alias
from search.promotion.promoting import settings_for
from search.promotion.registry import Registry
from search.promotion.serving import difference
from workers.ledger import Ledger
from workers.records import SearchRecord
from workers.sandbox import Sandbox
from workers.settings import TrialSettings
from workers.supervisor import Supervisor, run_profile

SECONDS = 120.0
CONFIDENCE = 0.95


class SideReport(Frozen):
    """One of the two: what it is, and what it showed; latencies are of all rounds that timed both in turn."""

    reference: str
    bundle: str
    label: str
    target: str
    digest: str
    size_bytes: int
    accuracy: float | None = None
    p50_ms: float | None = None
    percentile_ms: float | None = None


class DiffReport(Frozen):
    """How B differs from A.

    Attributes:
        rows: examples of validation that both answered.
        largest_difference: of any answer, relative to A's largest.
        sqnr_db: A's answers as the signal, the differences as the noise.
        agreement: share of rows with the same arg-max, or one minus the relative error.
        accuracy_difference: B's minus A's on those rows, with its 95 % interval where the metric scores examples: both
            answered the same ones, so they are compared pair by pair.
        latency_ratio: time of B over that of A, timed in turn, with its 95 % interval; null where it was not timed.
        notes: what could not be compared, and why.
    """

    a: SideReport
    b: SideReport
    rows: int
    largest_difference: float
    sqnr_db: float
    agreement: float
    scored_by: str | None
    original_accuracy: float | None
    accuracy_difference: float | None
    accuracy_difference_ci95: Interval | None = None
    size_ratio: float
    percentile: str
    latency_ratio: Ratio | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Side:
    """A bundle that was named, and the search that it comes from, if one is known."""

    reference: str
    bundle: Path
    manifest: Manifest
    record: SearchRecord | None
    ours: bool


def find_side(reference: str, ledger: Ledger, registry: Registry, home: Path) -> Side:
    """Find a bundle by its folder, as ``SEARCH/TRIAL``, or as ``NAME@ALIAS``.

    Raises:
        UsageError: there is none.
        IntegrityError: it is not what was built.
    """
    if Path(reference).is_dir():
        folder = Path(reference).resolve()
        ours = folder.is_relative_to((home / "bundles").resolve())
        return Side(reference, folder, read_manifest(folder), None, ours)
    if "@" in reference:
        name = parse_model_alias(reference)
        version = registry.current(name)
        record = ledger.certificate(name.model, version.version)
        search = None if record is None else ledger.search(str(record.certificate["search"]))
        return Side(reference, Path(version.bundle), read_manifest(Path(version.bundle)), search, record is not None)
    search_name, separator, number = reference.replace(":", "/").rpartition("/")
    if not separator or not number.isdigit():
        raise UsageError(f"{reference!r} is no folder of a bundle, no trial such as latest/7, and no NAME@ALIAS")
    folder = find_bundle(f"{search_name}:{number}", home)
    return Side(reference, folder, read_manifest(folder), ledger.search(search_name), True)


def diff_bundles(
    a: Side, b: Side, ledger: Ledger, sandbox: Sandbox, home: Path, *, examples: int = 1000, trust: str | None = None
) -> DiffReport:
    """Compare two bundles of one workload.

    Raises:
        UsageError: they take other inputs or give other outputs, or belong to other workloads.
        InfrastructureError: a process could not be run.
    """
    _refuse_unlike(a, b)
    profile = _profile(a, b, sandbox, home)
    with tempfile.TemporaryDirectory(prefix="paretune-diff-") as scratch:
        files = [Path(scratch) / f"{name}.npz" for name in "ab"]
        runs = [_run(side, file, profile, home, examples, trust) for side, file in zip((a, b), files, strict=True)]
        accuracy_ci95 = _difference_interval([file.with_suffix(".npy") for file in files])
        answers = [_answers(file, a.manifest.outputs.names) for file in files]
    settings = _settings(a, b, profile)
    found, notes = _time(a, b, ledger, sandbox, home, settings)
    sides = [_side(side, run, found, index) for index, (side, run) in enumerate(zip((a, b), runs, strict=True))]
    scores = [run.score for run in runs]
    return DiffReport(
        a=sides[0], b=sides[1], rows=runs[0].rows,
        largest_difference=min(difference(answers[1], answers[0]), np.finfo(float).max),
        sqnr_db=_sqnr_db(answers[1][0], answers[0][0]), agreement=float(agreement(answers[1], answers[0]).mean()),
        scored_by=runs[0].scored_by, original_accuracy=runs[0].original_score,
        accuracy_difference=None if None in scores else float(scores[1] or 0) - float(scores[0] or 0),
        accuracy_difference_ci95=accuracy_ci95,
        size_ratio=sides[1].size_bytes / sides[0].size_bytes, percentile=settings.protocol.percentile,
        latency_ratio=None if found is None else ratio_of(found, 1, 0), notes=tuple(notes),
    )  # fmt: skip


def _refuse_unlike(a: Side, b: Side) -> None:
    for what in ("inputs", "outputs"):
        mine, theirs = (getattr(side.manifest, what).to_json() for side in (a, b))
        if mine != theirs:
            raise UsageError(f"{a.reference} and {b.reference} have other {what}, so their answers cannot be compared")
    prints = {side.record.profile.fingerprint for side in (a, b) if side.record and side.record.profile}
    if len(prints) > 1:
        raise UsageError(f"{a.reference} and {b.reference} belong to other workloads (model, data or metric differ)")


def _profile(a: Side, b: Side, sandbox: Sandbox, home: Path) -> WorkloadProfile:
    for side in (a, b):
        if side.record is not None and side.record.profile is not None:
            return side.record.profile
    answer = run_profile(sandbox, home, a.manifest.workload)
    if answer is None or answer.profile is None:
        problems = "; ".join(problem.what for problem in answer.problems) if answer else ""
        raise UsageError(f"workload {a.manifest.workload} of {a.reference} cannot be read: {problems}")
    return answer.profile


def _run(side: Side, output: Path, profile: WorkloadProfile, home: Path, examples: int, trust: str | None) -> BundleRun:
    vouched = side.manifest.digest if side.ours else trust
    return run_bundle(side.bundle, home, workload=profile.reference, examples=examples, output=output,
                      scores=output.with_suffix(".npy"), trust=vouched)  # fmt: skip


def _answers(file: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    with np.load(file, allow_pickle=False) as stored:
        return [stored[name] for name in names]


def _difference_interval(files: Sequence[Path]) -> Interval | None:
    """Return the 95 % interval of how much higher the second scores than the first, from the scores of each example."""
    if not all(file.exists() for file in files):
        return None
    first, second = (np.load(file, allow_pickle=False) for file in files)
    low, high = drop_of(first, second, CONFIDENCE).ci95
    return -high, -low


def _settings(a: Side, b: Side, profile: WorkloadProfile) -> TrialSettings:
    record = a.record or b.record
    if record is None or record.profile is None:
        return TrialSettings(profile=profile)
    return settings_for(record, record.profile, a.manifest.candidate.target)


def _time(
    a: Side, b: Side, ledger: Ledger, sandbox: Sandbox, home: Path, settings: TrialSettings
) -> tuple[Comparison | None, list[str]]:
    """Time both in turn where this machine is the target of both."""
    targets = {side.manifest.candidate.target for side in (a, b)}
    here = {target.name for target in probe_targets()}
    if len(targets) > 1 or not targets <= here:
        return None, [f"not timed: they are for {', '.join(sorted(targets))}, and this machine is {', '.join(here)}"]
    found = Supervisor(ledger, sandbox, home).compare(
        "diff", [str(side.bundle) for side in (a, b)], settings, SECONDS, target=targets.pop()
    )
    if not isinstance(found, Comparison):
        raise InfrastructureError(f"timing them in turn failed: {found.reason if found else 'cancelled'}")
    sizes = [side.manifest.candidate.batch_size for side in (a, b)]
    notes = [] if sizes[0] == sizes[1] else [f"a call of A takes {sizes[0]} examples, one of B {sizes[1]}"]
    return found, notes


def _side(side: Side, run: BundleRun, found: Comparison | None, index: int) -> SideReport:
    latency = found.latencies[index] if found else None
    return SideReport(
        reference=side.reference, bundle=str(side.bundle), label=side.manifest.candidate.label(),
        target=side.manifest.candidate.target, digest=side.manifest.digest, size_bytes=size_bytes(side.bundle),
        accuracy=run.score, p50_ms=latency and latency.p50, percentile_ms=latency and latency.value,
    )  # fmt: skip


def _sqnr_db(found: np.ndarray, wanted: np.ndarray) -> float:
    a, b = found.astype(np.float64), wanted.astype(np.float64)
    noise, signal = float(np.square(a - b).sum()), float(np.square(b).sum())
    if not noise:
        return 200.0
    return float(np.clip(10 * math.log10(signal / noise), -200, 200)) if signal else -200.0
