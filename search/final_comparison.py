"""The final comparison: the finalists and what they are compared with, timed in turn, so that the best is the best."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.errors import IntegrityError, UsageError
from evaluators.jobs import Comparison
from evaluators.outcome import LatencyEvidence, Ratio
from evaluators.statistics import compare_rounds
from evaluators.verdicts import judge_all
from search.comparing import compare_in_turn
from search.finalists import distinct, finalists, references, setting_of
from search.front import timed_best
from search.result import FinalRow, Finals, TrialResult
from search.trial_loop import Session

MOST_COMPARISONS = 3
MOST_SECONDS = 600.0
SHARE = 0.6
"""Of the time that is left; the rest is for another comparison, where the new times put another trial ahead."""
LEAST_ROUNDS = 3


def run_final_comparison(session: Session) -> None:
    """Time the finalists in turn until the best of the search and its references are among them; record the result."""
    recorded = session.ledger.search(session.record.id).finals
    known = Finals.model_validate(recorded) if recorded else _answered(session)
    if known is not None and not recorded:
        session.ledger.update_search(session.record.id, finals=known.to_json())
    for _ in range(MOST_COMPARISONS):
        trials = session.trials()
        best = session.best(trials)
        wanted = [best, *references(trials, best, session.spec)] if best else finalists(trials, session.spec)
        if {trial.number for trial in wanted} <= (set(known.trials) if known else set()):
            return
        if session.over:
            break
        chosen = distinct([*wanted, *finalists(trials, session.spec)])
        known = _compare(session, chosen, known.seconds if known else 0.0)
        if known is None:
            return
        session.ledger.update_search(session.record.id, finals=known.to_json())
    leader = session.best(session.trials())
    if known and leader and leader.number not in known.trials:
        session.note(
            f"trial {leader.number} ({leader.label}) looks better than the best by a measurement of its own, and there "
            "was no time left to time it in turn; give the search more time"
        )


def _answered(session: Session) -> Finals | None:
    """Return what an earlier search found, in the numbers of this one, if it timed the best and its references in turn.

    Trials that it answered have its bundles, and latencies that its comparison has amended.
    """
    trials = session.trials()
    best = session.best(trials)
    if best is None or best.answered_by is None:
        return None
    earlier = best.answered_by.rpartition("/")[0]
    found = session.ledger.search(earlier).finals
    if not found:
        return None
    finals, mine = Finals.model_validate(found), {trial.answered_by: trial.number for trial in trials}
    numbers = {number: mine[name] for number in finals.trials if (name := f"{earlier}/{number}") in mine}
    wanted = {trial.number for trial in (best, *references(trials, best, session.spec))}
    if finals.best not in numbers or not wanted <= set(numbers.values()):
        return None
    rows = [row.model_copy(update={"trial": numbers[row.trial]}) for row in finals.rows if row.trial in numbers]
    return finals.model_copy(update={"best": numbers[finals.best], "rows": tuple(rows), "seconds": 0.0})


def _compare(session: Session, chosen: Sequence[TrialResult], earlier_seconds: float) -> Finals | None:
    """Time the bundles of ``chosen`` in turn, amend their trials, and return how they compare; None if it failed."""
    bundles = [trial.bundle for trial in chosen if trial.bundle is not None]
    target = chosen[0].candidate.target
    try:
        found = compare_in_turn(session, bundles, target, min(SHARE * session.seconds_left(), MOST_SECONDS))
    except (UsageError, IntegrityError) as error:  # a bundle that another home built cannot be had
        session.note(f"no final comparison, so the best rests on one measurement of each trial: {error}")
        return None
    if found is None:
        session.note("the final comparison was not done before the end, so the best rests on one measurement")
        return None
    if not isinstance(found, Comparison):
        session.note(f"the final comparison failed, so the best rests on one measurement: {found.kind}: {found.reason}")
        return None
    for trial, latency in zip(chosen, found.latencies, strict=True):
        if latency is not None and latency.clean:
            _amend(session, trial, latency, _over_eager(chosen, found, trial))
    trials, numbers = session.trials(), [trial.number for trial in chosen]
    best = timed_best(session.front(trials), trials, numbers, session.spec.goal, session.spec.percentile)
    if best is None or best.number not in numbers:
        best = chosen[0]
    rows = [
        FinalRow(trial=trial.number, label=trial.label, p50_ms=latency.p50, percentile_ms=latency.value,
                 over_best=None if trial.number == best.number else ratio_of(found, index, numbers.index(best.number)))
        for index, (trial, latency) in enumerate(zip(chosen, found.latencies, strict=True)) if latency is not None
    ]  # fmt: skip
    seconds = earlier_seconds + sum(found.seconds)
    rounds = max((len(medians) for medians in found.log_medians), default=0)
    return Finals(best=best.number, rows=tuple(rows), rounds=rounds, seconds=round(seconds, 3))


def _over_eager(chosen: Sequence[TrialResult], found: Comparison, trial: TrialResult) -> Ratio | None:
    """Return how many times faster than the eager fp32 model of the same batch size and threads, if that was timed."""
    numbers = [item.number for item in chosen]
    for index, other in enumerate(chosen):
        if other.candidate.is_original and other.number != trial.number and setting_of(other) == setting_of(trial):
            return ratio_of(found, index, numbers.index(trial.number))
    return None


def ratio_of(found: Comparison, slow: int, fast: int) -> Ratio | None:
    """Return the time of one bundle over that of another, from the rounds in which both were timed."""
    pairs = zip(found.log_medians[slow], found.log_medians[fast], strict=False)
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if len(differences) < LEAST_ROUNDS:
        return None
    value, interval = compare_rounds(differences)
    return Ratio(value=value, ci95=interval)


def _amend(session: Session, trial: TrialResult, latency: LatencyEvidence, speedup: Ratio | None) -> None:
    """Put the latency of all rounds in the place of the first look, and judge anew."""
    record = session.ledger.trial(f"{session.record.id}/{trial.number}")
    if record.outcome is None or record.outcome.evidence.latency is None:
        return
    first = record.outcome.evidence.latency
    latency = latency.model_copy(
        update={"load_seconds": first.load_seconds, "polluted": latency.polluted + first.polluted,
                "speedup": speedup or first.speedup}
    )  # fmt: skip
    evidence = record.outcome.evidence.model_copy(
        update={"latency": latency, "throughput_per_s": trial.candidate.batch_size / (latency.mean / 1e3)}
    )
    verdicts = judge_all(session.spec.constraints, evidence)
    outcome = record.outcome.model_copy(update={"evidence": evidence, "verdicts": verdicts})
    session.ledger.amend(record.id, record.attempt, outcome)
