"""Verdicts: one judgement per constraint from a value and its interval, as pure functions."""

from __future__ import annotations

from collections.abc import Iterable

from evaluators.outcome import Constraint, Evidence, Interval, Verdict

ACCURACY_SCALE = 0.01


def scale_of(constraint: Constraint) -> float:
    """Return the unit in which a violation is counted: the limit itself, or one point of accuracy."""
    if constraint.metric in ("accuracy", "accuracy_drop"):
        return ACCURACY_SCALE
    return abs(constraint.limit) or 1.0


def violation_of(constraint: Constraint, value: float) -> float:
    """Return ``(value - limit) / scale``: above 0 outside the limit."""
    excess = value - constraint.limit if constraint.max is not None else constraint.limit - value
    return excess / scale_of(constraint)


def judge(constraint: Constraint, value: float, bounds: Interval | None, *, known: bool = True) -> Verdict:
    """Pass or fail where both one-sided bounds agree with the value, undecided where they straddle the limit.

    What is not known well enough to be judged (``known`` is False) is undecided, whatever its value.
    """
    violation = violation_of(constraint, value)
    ends = [violation_of(constraint, end) for end in bounds or (value, value)]
    if not known:
        status = "undecided"
    elif max(ends) <= 0 and violation <= 0:
        status = "pass"
    elif min(ends) > 0 and violation > 0:
        status = "fail"
    else:
        status = "undecided"
    return Verdict.model_validate(
        {"constraint": constraint, "status": status, "value": value, "interval": bounds, "violation": violation}
    )


def judge_all(constraints: Iterable[Constraint], evidence: Evidence) -> tuple[Verdict, ...]:
    """Judge every constraint that the evidence can answer, in the order given."""
    verdicts = []
    for constraint in constraints:
        found = measured(constraint.metric, evidence)
        if found is not None:
            verdicts.append(judge(constraint, *found, known=_known(constraint, evidence)))
    return tuple(verdicts)


def _known(constraint: Constraint, evidence: Evidence) -> bool:
    """Whether a latency was measured cleanly and often enough, and a score has an interval.

    Else nothing says how sure a value is; but too few calls, all of them too slow, are enough to fail.
    """
    metric, latency = constraint.metric, evidence.latency
    if metric.startswith("latency_") and latency is not None:
        low, _ = latency.bounds or latency.ci95
        return latency.clean and (latency.bounded or violation_of(constraint, low) > 0)
    if metric.startswith("server_") and (server := evidence.server) is not None:
        return server.clean and (server.bounded or violation_of(constraint, server.bounds[0]) > 0)
    if metric in ("accuracy", "accuracy_drop"):
        return evidence.accuracy is None or not (evidence.accuracy.method or "").startswith("none")
    return True


def measured(metric: str, evidence: Evidence) -> tuple[float, Interval | None] | None:
    """Return the value of a metric and its one-sided bounds, or None if it was not measured."""
    latency, accuracy = evidence.latency, evidence.accuracy
    if metric.startswith("latency_"):
        return None if latency is None else (latency.value, latency.bounds or latency.ci95)
    if metric.startswith("server_"):
        return None if evidence.server is None else (evidence.server.value, evidence.server.bounds)
    if metric == "accuracy_drop":
        return None if accuracy is None else (accuracy.drop, accuracy.drop_bounds or accuracy.drop_ci95)
    if metric == "accuracy":
        return None if accuracy is None else (accuracy.accuracy, accuracy.bounds or accuracy.ci95)
    if metric == "size_bytes":
        return None if evidence.size_bytes is None else (float(evidence.size_bytes), None)
    raise ValueError(f"no evidence carries a metric named {metric!r}")
