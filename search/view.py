"""View: a search read from the ledger as its users see it — trials, front, best, baselines, relaxations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from evaluators.outcome import Interval, Verdict
from search.front import nearest_trials, objective_value, pareto_front, timed_best, undecided_trials
from search.prices import cost_per_million
from search.result import Finals, Overhead, Relaxation, SearchResult, TrialCounts, TrialResult, trial_result
from search.saturation import curves_of
from search.spec import SearchSpec
from workers.records import SearchRecord, TrialRecord

Status = Literal["feasible", "infeasible", "interrupted"]


def trial_results(records: Iterable[TrialRecord], spec: SearchSpec) -> list[TrialResult]:
    """Return every trial as users see it, with its place on the front."""
    found = [result_of(record, spec) for record in records]
    front = {trial.number for trial in pareto_front(found, spec.goal, spec.percentile)}
    return [trial.model_copy(update={"pareto": trial.number in front}) for trial in found]


def result_of(record: TrialRecord, spec: SearchSpec) -> TrialResult:
    """Return one trial as users see it; whether it is on the front, only all of them together can tell."""
    found = trial_result(
        record.number, record.candidate, record.source, record.state,
        record.outcome if record.state == "DONE" else None,
        answered_by=record.answered_by, mlflow_run_id=record.view_id,
    )  # fmt: skip
    if len(spec.targets) > 1:
        found = found.model_copy(update={"label": f"{found.label} on {found.candidate.target}"})
    return _priced(found, prices.get(found.candidate.target)) if (prices := spec.prices) else found


def _priced(trial: TrialResult, price_per_hour: float | None) -> TrialResult:
    served = trial.throughput_per_s if trial.server is None else trial.server.sustained_per_s
    return trial.model_copy(update={"cost_per_million": cost_per_million(price_per_hour, served)})


def count_trials(trials: Sequence[TrialResult]) -> TrialCounts:
    """Count how the finished trials ended."""
    own = [trial for trial in trials if trial.answered_by is None]
    kinds = {kind: sum(trial.outcome == kind for trial in own) for kind in ("measured", "rejected", "failed")}
    cached = len(trials) - len(own)
    undecided = sum(trial.undecided for trial in trials)
    return TrialCounts(total=sum(kinds.values()) + cached, cached=cached, undecided=undecided, **kinds)


def search_result(
    record: SearchRecord, spec: SearchSpec, trials: Sequence[TrialResult], targets: Sequence[str], home: Path,
    *, interrupted: bool = False, notes: Sequence[str] = (), report: str | None = None, finals: Finals | None = None,
) -> SearchResult:  # fmt: skip
    """Draw the result of a search from its trials and, where there was one, its final comparison."""
    finals = finals or (Finals.model_validate(record.finals) if record.finals else None)
    front = pareto_front(trials, spec.goal, spec.percentile)
    compared_in_turn = finals.trials if finals else ()
    best = timed_best(front, trials, compared_in_turn, spec.goal, spec.percentile)
    baseline = find_baseline(trials, best)
    best_float = find_best_float(trials, best, spec)
    nearest = [] if best else nearest_trials(trials)
    status: Status = "interrupted" if interrupted else "feasible" if best else "infeasible"
    stages = sum(sum(trial.stage_seconds.values()) for trial in trials if trial.answered_by is None)
    outside = max(0.0, record.elapsed_s - stages - (finals.seconds if finals else 0.0))
    faster, faster_ci95 = compared(baseline, best, spec.percentile, finals)
    than_float, than_float_ci95 = compared(best_float, best, spec.percentile, finals)
    polluted, never_clean = disturbed(trials)
    return SearchResult(
        search=record.id, name=record.name, workload=record.workload, targets=tuple(targets), status=status,
        objective=spec.goal, percentile=spec.percentile, scenario=spec.scenario,
        rate_per_s=spec.rate_per_s, constraints=spec.constraints, confidence=spec.confidence,
        baseline=baseline, best_float=best_float, best=best, speedup=faster, speedup_ci95=faster_ci95,
        speedup_over_float=than_float, speedup_over_float_ci95=than_float_ci95,
        undecided=tuple(undecided_trials(trials, spec.goal, spec.percentile)),
        nearest=tuple(nearest), relaxations=tuple(relaxation(trial, spec) for trial in nearest), front=tuple(front),
        finals=finals, curves=curves_of(trials), trials=count_trials(trials),
        polluted=polluted, never_clean=never_clean,
        elapsed_s=round(record.elapsed_s, 3),
        overhead=Overhead(seconds=round(outside, 3), share=round(outside / max(record.elapsed_s, 1e-9), 4)),
        scored_by=record.profile.scored_by if record.profile else "", notes=tuple(notes), home=str(home), report=report,
    )  # fmt: skip


def find_baseline(trials: Sequence[TrialResult], best: TrialResult | None) -> TrialResult | None:
    """Return eager fp32 as the user wrote it, at target, batch size and threads of ``best``; at batch 1 without one.

    Where that one is missing, the one at another number of threads stands in.
    """
    plain = [trial for trial in trials if trial.candidate.is_original]
    if best is None:
        return min(plain, key=lambda trial: (trial.candidate.batch_size, trial.number), default=None)
    wanted = best.candidate
    same = [
        trial for trial in plain
        if trial.candidate.target == wanted.target and trial.candidate.batch_size == wanted.batch_size
        and trial.outcome == "measured"
    ]  # fmt: skip
    return min(same, key=lambda trial: trial.candidate.runtime.threads != wanted.runtime.threads, default=None)


def find_best_float(trials: Sequence[TrialResult], best: TrialResult | None, spec: SearchSpec) -> TrialResult | None:
    """Return the fastest unmodified fp32 model of any backend at the target and batch size of ``best``.

    One that was measured beside other programs stands in only where none was measured without.
    """
    size = best.candidate.batch_size if best else min((t.candidate.batch_size for t in trials), default=1)
    ranked = [
        (rank, trial) for trial in trials
        if trial.candidate.batch_size == size and (rank := float_rank(trial, spec.percentile)) is not None
        and (best is None or trial.candidate.target == best.candidate.target)
    ]  # fmt: skip
    return min(ranked, key=lambda item: item[0], default=(None, None))[1]


def float_rank(trial: TrialResult, percentile: str) -> tuple[bool, float] | None:
    """Return what unmodified fp32 models are ranked by, the fastest first; None for any other trial.

    One that was measured beside other programs comes after all that were not.
    """
    if not trial.candidate.is_unmodified_float or trial.latency_ms is None or trial.outcome != "measured":
        return None
    return not trial.latency_ms.clean, trial.latency_at(percentile) or float("inf")


def compared(
    slow: TrialResult | None, fast: TrialResult | None, percentile: str, finals: Finals | None = None
) -> tuple[float | None, Interval | None]:
    """Return how many times faster ``fast`` answers a call, and the 95 % interval of that.

    Where the final comparison timed the two in turn, its ratio is the answer; else the ratio of the two latencies,
    which were measured at different times and so have no interval.
    """
    ratio = finals.over_best(slow.number) if finals and slow and fast and finals.best == fast.number else None
    if ratio is None:
        return speedup(slow, fast, percentile), None
    return round(ratio.value, 3), (round(ratio.ci95[0], 3), round(ratio.ci95[1], 3))


def speedup(slow: TrialResult | None, fast: TrialResult | None, percentile: str) -> float | None:
    """Return how many times faster ``fast`` answers a call, both at the same batch size."""
    a = slow.latency_at(percentile) if slow else None
    b = fast.latency_at(percentile) if fast else None
    return round(a / b, 3) if a and b else None


def disturbed(trials: Sequence[TrialResult]) -> tuple[int, int]:
    """Count what other programs spoiled: blocks of calls that this search threw away, and trials never clean."""
    timed = [(trial.latency_ms, trial.answered_by is None) for trial in trials if trial.latency_ms is not None]
    return sum(latency.polluted for latency, own in timed if own), sum(not latency.clean for latency, _ in timed)


def relaxation(trial: TrialResult, spec: SearchSpec) -> Relaxation:
    """Return what every limit would have to be for ``trial`` to keep it surely; what was not measured is unknown.

    So is a latency that was measured beside other programs, since no limit would make it pass.
    """
    judged = {verdict.constraint.metric: verdict for verdict in trial.verdicts}
    timed = trial.server if spec.scenario == "server" else trial.latency_ms
    if timed is not None and not timed.clean:
        judged.pop(spec.latency_metric, None)
    limits = {metric: _strictest_kept(verdict) for metric, verdict in judged.items() if verdict.status != "pass"}
    unknown = tuple(limit.metric for limit in spec.constraints if limit.metric not in judged)
    return Relaxation(trial=trial.number, label=trial.label, limits=limits, unknown=unknown)


def _strictest_kept(verdict: Verdict) -> float:
    """Return the strictest limit that would surely be kept: the bound on its side, or the value where it has none."""
    low, high = verdict.interval or (verdict.value, verdict.value)
    return max(high, verdict.value) if verdict.constraint.max is not None else min(low, verdict.value)


def objective_of(trial: TrialResult, spec: SearchSpec) -> float | None:
    """Return the trial's value of the search's objective, to be minimised."""
    return objective_value(trial, spec.goal, spec.percentile)
