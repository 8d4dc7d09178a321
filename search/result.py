"""SearchResult and TrialResult: what a search returns — the same object from Python, ``--json`` and the report."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from evaluators.candidate import Candidate
from evaluators.frozen import Frozen
from evaluators.outcome import Constraint, Interval, Outcome, Verdict

SCHEMA_VERSION = 1


class LatencyResult(Frozen):
    """Latency of one call with the whole batch, in milliseconds; ``ci95`` is of the search's percentile."""

    p50: float
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    ci95: Interval


class TrialResult(Frozen):
    """One trial as users and scripts see it."""

    number: int
    candidate: Candidate
    label: str
    source: str
    outcome: Literal["measured", "rejected", "failed", "queued", "running"]
    reason: str | None = None
    gate: str | None = None
    failure_kind: str | None = None
    feasible: bool = False
    pareto: bool = False
    latency_ms: LatencyResult | None = None
    throughput_per_s: float | None = None
    accuracy: float | None = None
    accuracy_ci95: Interval | None = None
    accuracy_drop: float | None = None
    accuracy_drop_ci95: Interval | None = None
    size_bytes: int | None = None
    peak_memory_bytes: int | None = None
    parameters: int | None = None
    flops: int | None = None
    verdicts: tuple[Verdict, ...] = ()
    stage_seconds: dict[str, float] = Field(default_factory=dict)
    cached_stages: tuple[str, ...] = ()
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


class TrialCounts(Frozen):
    """How many trials ended how; ``cached`` were answered from an earlier search. All of them add up to total."""

    total: int
    measured: int
    rejected: int
    failed: int
    cached: int


class Overhead(Frozen):
    """Wall time outside the stages of the trials: process starts, sampling, profiling, logging."""

    seconds: float
    share: float


class Relaxation(Frozen):
    """What the limits would have to be for one near candidate to be feasible."""

    trial: int
    label: str
    limits: dict[str, float]
    unknown: tuple[str, ...] = ()


class SearchResult(Frozen):
    """One search: its best model against two baselines, the front, and how every trial ended."""

    schema_version: int = SCHEMA_VERSION
    search: str
    name: str
    workload: str
    targets: tuple[str, ...]
    status: Literal["feasible", "infeasible", "interrupted"]
    objective: str
    percentile: str
    constraints: tuple[Constraint, ...]
    baseline: TrialResult | None = None
    best_float: TrialResult | None = None
    best: TrialResult | None = None
    speedup: float | None = None
    speedup_over_float: float | None = None
    nearest: tuple[TrialResult, ...] = ()
    relaxations: tuple[Relaxation, ...] = ()
    front: tuple[TrialResult, ...] = ()
    trials: TrialCounts
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


def trial_result(
    number: int, candidate: Candidate, source: str, state: str, outcome: Outcome | None, **extra: Any
) -> TrialResult:
    """Build the user's view of a trial; ``extra`` are fields that the outcome does not know (pareto, run id, …)."""
    common: dict[str, Any] = {"number": number, "candidate": candidate, "label": candidate.label(), "source": source}
    if outcome is None:
        return TrialResult(**common, outcome="running" if state == "RUNNING" else "queued", **extra)
    evidence = outcome.evidence
    latency = evidence.latency and LatencyResult(
        p50=evidence.latency.p50, p90=evidence.latency.p90, p95=evidence.latency.p95, p99=evidence.latency.p99,
        ci95=evidence.latency.ci95,
    )  # fmt: skip
    accuracy = evidence.accuracy
    return TrialResult(
        **common,
        outcome=outcome.kind,
        reason=outcome.reason,
        gate=outcome.gate,
        failure_kind=outcome.failure and str(outcome.failure.kind),
        feasible=outcome.feasible,
        latency_ms=latency,
        throughput_per_s=evidence.throughput_per_s,
        accuracy=accuracy and accuracy.accuracy,
        accuracy_ci95=accuracy and accuracy.ci95,
        accuracy_drop=accuracy and accuracy.drop,
        accuracy_drop_ci95=accuracy and accuracy.drop_ci95,
        size_bytes=evidence.size_bytes,
        peak_memory_bytes=evidence.peak_memory_bytes,
        parameters=evidence.parameters,
        flops=evidence.flops,
        verdicts=outcome.verdicts,
        stage_seconds=outcome.stage_seconds,
        cached_stages=outcome.cached_stages,
        bundle=outcome.bundle,
        reproduce=outcome.reproduce,
        **extra,
    )
