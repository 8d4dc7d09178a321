"""Explain: one trial in words — how it was judged, what really ran, and why it is no faster than its twin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from evaluators.errors import UsageError
from evaluators.frozen import Frozen
from evaluators.outcome import Diagnosis, Ratio
from evaluators.target import Target
from search.curves import Curve
from search.reasons import RULES, Case, reason_for
from search.result import SearchResult, TrialResult
from search.saturation import curve_of
from search.spec import SearchSpec
from search.twins import Twin, batch_siblings, batch_utilization, find_twin, speedup_over
from search.view import relaxation
from search.wording import command, is_share, name_of, show_metric, show_relaxed, show_verdict


class Explanation(Frozen):
    """What is known about one trial.

    Attributes:
        verdicts: each limit and how it was judged, in words.
        relaxed: what the limits that are not surely kept would have to be, in words.
        twin: the float twin of a quantized trial, the unpruned twin of a pruned float one.
        twin_kind / twin_differs: which of the two, and in what else it differs for want of an exact one.
        speedup_over_twin: latency of the twin over that of the trial, with a 95 % interval.
        compared: what that interval says; ``unsure`` where it holds 1.
        timed_in_turn: whether drift of the machine cancels in the comparison.
        batch_utilization: throughput over that of the same candidate at batch size 1; null without that trial.
        curve: throughput over batch size, where others of the trial's were measured; it says where it saturates.
        why: why the trial is not surely faster than its twin, in one sentence; null where it is, or has none.
        looked_at: what was looked at where nothing explains it.
        reproduce: the command that runs the trial again.
    """

    search: str
    trial: TrialResult
    verdicts: tuple[str, ...] = ()
    relaxed: tuple[str, ...] = ()
    twin: TrialResult | None = None
    twin_kind: Literal["float", "unpruned"] | None = None
    twin_differs: tuple[str, ...] = ()
    speedup_over_twin: Ratio | None = None
    compared: Literal["faster", "slower", "unsure"] | None = None
    timed_in_turn: bool = False
    diagnosis: Diagnosis | None = None
    batch_utilization: float | None = None
    curve: Curve | None = None
    why: str | None = None
    looked_at: tuple[str, ...] = ()
    reproduce: str


def explain(
    result: SearchResult, spec: SearchSpec, trials: Sequence[TrialResult], number: int, target: Target | None = None
) -> Explanation:
    """Explain one trial of a search by the others; ``result`` names the search, as far as it has come.

    ``target`` is this machine's; it counts only where the trial ran on its class of machine.

    Raises:
        UsageError: the search has no trial of this number.
    """
    known = {trial.number: trial for trial in trials}
    if number not in known:
        has = f"it has 0 to {len(known) - 1}" if known else "it has none yet"
        raise UsageError(f"search {result.name} has no trial {number}; {has}")
    trial = known[number]
    siblings = batch_siblings(trial, trials)
    twin = find_twin(trial, trials) if trial.latency_ms is not None else None
    ratio, in_turn = speedup_over(trial, twin.trial, spec.percentile) if twin else (None, False)
    compared = None if ratio is None else _compared(ratio)
    here = target if target is not None and target.name == trial.candidate.target else None
    unexplained: tuple[str | None, tuple[str, ...]] = (None, ())
    wanted = compared in ("slower", "unsure")
    why, looked_at = _why(trial, twin, siblings, here, unsure=compared == "unsure") if wanted else unexplained
    return Explanation(
        search=result.search, trial=trial, verdicts=_verdicts(trial, spec), relaxed=_relaxed(trial, spec),
        twin=twin and twin.trial, twin_kind=twin and twin.kind, twin_differs=twin.differs if twin else (),
        speedup_over_twin=ratio, compared=compared, timed_in_turn=in_turn, diagnosis=trial.diagnosis,
        batch_utilization=batch_utilization(trial, siblings), curve=curve_of(trial, trials),
        why=why, looked_at=looked_at,
        reproduce=trial.reproduce or command(result, "reproduce", result.search, str(number)),
    )  # fmt: skip


def _compared(ratio: Ratio) -> Literal["faster", "slower", "unsure"]:
    low, high = ratio.ci95
    return "faster" if low > 1 else "slower" if high < 1 else "unsure"


def _why(
    trial: TrialResult, twin: Twin | None, siblings: tuple[TrialResult, ...], target: Target | None, *, unsure: bool
) -> tuple[str | None, tuple[str, ...]]:
    """Return the reason or, where nothing explains it, a sentence that says so and what was looked at."""
    if twin is None:
        return None, ()
    diagnosis = trial.diagnosis or Diagnosis()
    reason = reason_for(Case(trial, twin, diagnosis, siblings, target))
    if reason is not None:
        return reason, ()
    looked_at = tuple(rule.looks_at for rule in RULES)
    if not diagnosis.operators:
        return "it is not known what the runtime executed, and nothing else that was looked at explains it", looked_at
    if unsure:
        return "it may well be as fast, and nothing that was looked at holds it back", looked_at
    return "nothing that was looked at explains it", looked_at


def _verdicts(trial: TrialResult, spec: SearchSpec) -> tuple[str, ...]:
    share = is_share(trial)
    said = []
    for verdict in trial.verdicts:
        limit = verdict.constraint
        sign = "at most" if limit.max is not None else "at least"
        asked = f"{name_of(limit.metric)} {sign} {show_metric(limit.metric, limit.limit, share)}"
        said.append(f"{asked}: {show_verdict(verdict, spec.confidence, share)}")
    judged = {verdict.constraint for verdict in trial.verdicts}
    if trial.outcome == "rejected":
        said += [f"{name_of(limit.metric)}: not measured" for limit in spec.constraints if limit not in judged]
    return tuple(said)


def _relaxed(trial: TrialResult, spec: SearchSpec) -> tuple[str, ...]:
    limits = relaxation(trial, spec).limits
    return tuple(show_relaxed(metric, value, is_share(trial)) for metric, value in limits.items())
