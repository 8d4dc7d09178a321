"""SearchResult and TrialResult: what a search returns — the same object from Python, ``--json`` and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from evaluators.candidate import Candidate
from evaluators.frozen import Frozen
from evaluators.outcome import (
    Bucketing,
    Constraint,
    Diagnosis,
    Interval,
    LatencyEvidence,
    Outcome,
    Ratio,
    ServerEvidence,
    Verdict,
)
from search.curves import Curve

if TYPE_CHECKING:
    from pandas import DataFrame

    from search.promotion.promoting import PromotionReport

SCHEMA_VERSION = 1


class LatencyResult(Frozen):
    """Latency of one call with the whole batch, in milliseconds; ``ci95`` is of the search's percentile.

    Attributes:
        bounds: one-sided bounds of the same, each at the search's confidence; the verdict was drawn from them.
        samples: calls that count, from ``processes`` fresh processes.
        polluted: blocks of calls that were thrown away because other programs used the processor meanwhile.
        clean: False where they never left enough time: such a latency is shown and never judged.
    """

    p50: float
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    ci95: Interval
    bounds: Interval | None = None
    samples: int | None = None
    processes: int = 1
    polluted: int = 0
    clean: bool = True


class TrialResult(Frozen):
    """One trial as users and scripts see it.

    Attributes:
        feasible: measured in full, and every limit is kept at the search's confidence.
        undecided: measured in full, no limit is surely missed, and at least one is not surely kept.
        server: what single requests at random saw of it, in the server scenario.
        speedup: over eager fp32 at the same batch size and threads, timed in turn with this trial.
        bucketing: what batches from buckets of similar length gain over batches as examples come, where it has them.
        cost_per_million: of a million inferences at the price of the trial's target, null without one.
        accuracy_examples: how many of validation were scored; ``accuracy_complete`` says whether it was all.
        energy_j: of one call with the whole batch, where the machine tells it.
        diagnosis: what the runtime really executed.
    """

    number: int
    candidate: Candidate
    label: str
    source: str
    outcome: Literal["measured", "rejected", "failed", "queued", "running"]
    reason: str | None = None
    gate: str | None = None
    failure_kind: str | None = None
    feasible: bool = False
    undecided: bool = False
    pareto: bool = False
    latency_ms: LatencyResult | None = None
    server: ServerEvidence | None = None
    speedup: Ratio | None = None
    throughput_per_s: float | None = None
    bucketing: Bucketing | None = None
    cost_per_million: float | None = None
    accuracy: float | None = None
    accuracy_ci95: Interval | None = None
    accuracy_drop: float | None = None
    accuracy_drop_ci95: Interval | None = None
    accuracy_examples: int | None = None
    accuracy_complete: bool | None = None
    size_bytes: int | None = None
    size_compressed_bytes: int | None = None
    peak_memory_bytes: int | None = None
    device_memory_bytes: int | None = None
    energy_j: float | None = None
    parameters: int | None = None
    flops: int | None = None
    diagnosis: Diagnosis | None = None
    verdicts: tuple[Verdict, ...] = ()
    stage_seconds: dict[str, float] = Field(default_factory=dict)
    cached_stages: tuple[str, ...] = ()
    training_seconds: dict[str, float] = Field(default_factory=dict)
    answered_by: str | None = None
    bundle: str | None = None
    reproduce: str | None = None
    mlflow_run_id: str | None = None

    def latency_at(self, percentile: str) -> float | None:
        """The latency at the search's ``percentile`` in ms, None if not measured.

        Where the samples did not support it, the upper end of its interval stands in.
        """
        if self.latency_ms is None:
            return None
        value: float | None = getattr(self.latency_ms, percentile)
        return self.latency_ms.ci95[1] if value is None else value

    @property
    def verdict(self) -> Literal["pass", "fail", "undecided"] | None:
        """The verdict on all limits together; None where the trial failed or has not ended."""
        if self.outcome not in ("measured", "rejected"):
            return None
        return "pass" if self.feasible else "undecided" if self.undecided else "fail"


class TrialCounts(Frozen):
    """How many trials ended how; ``cached`` were answered from an earlier search. These four add up to total.

    ``undecided`` counts among the measured and the cached.
    """

    total: int
    measured: int
    rejected: int
    failed: int
    cached: int
    undecided: int = 0


class Overhead(Frozen):
    """Wall time outside the stages of the trials: process starts, sampling, profiling, logging."""

    seconds: float
    share: float


class Relaxation(Frozen):
    """What the limits would have to be for one near candidate to keep them at the search's confidence.

    ``limits`` are the candidate's bounds, not its values; ``unknown`` are limits without a clean measurement.
    """

    trial: int
    label: str
    limits: dict[str, float]
    unknown: tuple[str, ...] = ()


class FinalRow(Frozen):
    """One bundle in the final comparison.

    Attributes:
        trial / label: whose bundle it is.
        p50_ms / percentile_ms: its latency over all rounds: the median, and the percentile of the search.
        over_best: time of this one over that of the best, from rounds that timed them in turn; None for the best.
    """

    trial: int
    label: str
    p50_ms: float
    percentile_ms: float
    over_best: Ratio | None = None


class Finals(Frozen):
    """The final comparison: the best and what it is compared with, timed in turn in fresh processes.

    ``best`` is the trial whose time the others' is divided by; ``seconds`` is what all rounds took together.
    """

    best: int
    rows: tuple[FinalRow, ...]
    rounds: int
    seconds: float

    @property
    def trials(self) -> tuple[int, ...]:
        """The numbers of the trials that were timed in turn."""
        return tuple(row.trial for row in self.rows)

    def over_best(self, trial: int) -> Ratio | None:
        """Return the time of a trial over that of the best, None where it was not among those timed."""
        return next((row.over_best for row in self.rows if row.trial == trial), None)


class SearchResult(Frozen):
    """One search: its best model against two baselines, the front, and how every trial ended.

    Attributes:
        confidence: of every verdict: the probability with which a limit is kept that is said to be kept, at least.
        speedup / speedup_over_float: latency of ``baseline`` / ``best_float`` over that of ``best``; with a 95 %
            interval where the final comparison timed the two in turn.
        undecided: the best few trials whose values lie within the limits, but not surely; best objective first.
        curves: throughput over batch size wherever several were measured, that with the highest throughput first.
        polluted: blocks of calls that were thrown away because other programs used the processor meanwhile.
        never_clean: trials whose latency is not judged because other programs never left enough time.
    """

    schema_version: int = SCHEMA_VERSION
    search: str
    name: str
    workload: str
    targets: tuple[str, ...]
    status: Literal["feasible", "infeasible", "interrupted"]
    objective: str
    percentile: str
    scenario: Literal["single", "server"] = "single"
    rate_per_s: float | None = None
    constraints: tuple[Constraint, ...]
    confidence: float = 0.95
    baseline: TrialResult | None = None
    best_float: TrialResult | None = None
    best: TrialResult | None = None
    speedup: float | None = None
    speedup_ci95: Interval | None = None
    speedup_over_float: float | None = None
    speedup_over_float_ci95: Interval | None = None
    undecided: tuple[TrialResult, ...] = ()
    nearest: tuple[TrialResult, ...] = ()
    relaxations: tuple[Relaxation, ...] = ()
    front: tuple[TrialResult, ...] = ()
    finals: Finals | None = None
    curves: tuple[Curve, ...] = ()
    trials: TrialCounts
    polluted: int = 0
    never_clean: int = 0
    elapsed_s: float
    overhead: Overhead
    scored_by: str = ""
    notes: tuple[str, ...] = ()
    home: str
    report: str | None = None

    @property
    def exit_code(self) -> int:
        """0 feasible, 4 infeasible, 130 interrupted."""
        return {"feasible": 0, "infeasible": 4, "interrupted": 130}[self.status]

    def promote(
        self, name: str, *, trial: int | None = None, pick: str | None = None, without_test: bool = False
    ) -> PromotionReport:
        """Promote a trial of this search to ``NAME@ALIAS``, the best unless told; see ``paretune promote``.

        Raises:
            GateRefusedError: a gate refused; the registry is as it was.
            UsageError: the name or the trial cannot be used.
        """
        from search.notebook import promote_result

        return promote_result(self, name, trial=trial, pick=pick, needs_sealed=not without_test)

    def to_frame(self) -> DataFrame:
        """Return every trial of this search as a row of a pandas table: parameters, ending and metrics."""
        from search.notebook import frame_of

        return frame_of(self)

    def _repr_html_(self) -> str:
        """Show the front in a notebook: what was found, a picture, and a table."""
        from search.notebook import html_of

        return html_of(self)


def trial_result(
    number: int, candidate: Candidate, source: str, state: str, outcome: Outcome | None, **extra: Any
) -> TrialResult:
    """Build the user's view of a trial; ``extra`` are fields that the outcome does not know (pareto, run id, …)."""
    common: dict[str, Any] = {"number": number, "candidate": candidate, "label": candidate.label(), "source": source}
    if outcome is None:
        return TrialResult(**common, outcome="running" if state == "RUNNING" else "queued", **extra)
    evidence = outcome.evidence
    latency, accuracy = evidence.latency, evidence.accuracy
    return TrialResult(
        **common,
        outcome=outcome.kind,
        reason=outcome.reason,
        gate=outcome.gate,
        failure_kind=outcome.failure and str(outcome.failure.kind),
        feasible=outcome.feasible,
        undecided=outcome.undecided,
        latency_ms=latency and _latency_result(latency),
        server=evidence.server,
        speedup=latency and latency.speedup,
        throughput_per_s=evidence.throughput_per_s,
        bucketing=evidence.bucketing,
        accuracy=accuracy and accuracy.accuracy,
        accuracy_ci95=accuracy and accuracy.ci95,
        accuracy_drop=accuracy and accuracy.drop,
        accuracy_drop_ci95=accuracy and accuracy.drop_ci95,
        accuracy_examples=accuracy and accuracy.examples,
        accuracy_complete=accuracy and accuracy.complete,
        size_bytes=evidence.size_bytes,
        size_compressed_bytes=evidence.size_compressed_bytes,
        peak_memory_bytes=evidence.peak_memory_bytes,
        device_memory_bytes=evidence.device_memory_bytes,
        energy_j=evidence.energy_j,
        parameters=evidence.parameters,
        flops=evidence.flops,
        diagnosis=evidence.diagnosis,
        verdicts=outcome.verdicts,
        stage_seconds=outcome.stage_seconds,
        cached_stages=outcome.cached_stages,
        training_seconds=outcome.training_seconds,
        bundle=outcome.bundle,
        reproduce=outcome.reproduce,
        **extra,
    )


def _latency_result(latency: LatencyEvidence) -> LatencyResult:
    return LatencyResult(**{name: getattr(latency, name) for name in LatencyResult.model_fields})
