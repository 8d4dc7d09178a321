"""What must hold of a ledger after whatever happened: every trial has ended exactly once, and nothing is left over."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from workers.ledger import Ledger
from workers.records import AttemptRecord, TrialRecord

CLOCKS_APART_SECONDS = 0.5
"""So far apart may two processes be about the time of the database server."""

GRACE_SECONDS = 30.0
"""So long after the end of its lease a trial may still be said to run."""


def problems_of(ledger: Ledger, search_id: str) -> list[str]:
    """Return what is wrong with a search that has ended; nothing if every trial ended exactly once."""
    search, trials = ledger.search(search_id), ledger.trials(search_id)
    problems = [] if search.status == "finished" else [f"search {search.name} is {search.status}"]
    if [trial.number for trial in trials] != list(range(len(trials))):
        problems.append(f"search {search.name} has lost trials: {[trial.number for trial in trials]}")
    again = [row["trial"] for row in ((search.result or {}).get("finals") or {"rows": ()})["rows"]]
    told = [item.trial_number for item in ledger.pending(search_id) if item.trial_number is not None]
    for trial in trials:
        problems += [f"trial {trial.id}: {problem}" for problem in problems_of_trial(trial, ledger.attempts(trial.id))]
        if told.count(trial.number) != 1 + again.count(trial.number):  # the final comparison amends its trials
            problems.append(f"trial {trial.id}: its outcome is told {told.count(trial.number)} times")
    return problems


def problems_of_trial(trial: TrialRecord, attempts: Sequence[AttemptRecord]) -> list[str]:
    """Return what is wrong with a trial that was never answered by another one nor run again."""
    how = [attempt.ended_how for attempt in attempts]
    problems = []
    if trial.state != "DONE" or trial.outcome is None:
        problems.append(f"it is {trial.state}")
    # A trial that takes its workers along ends by the loss of the last one.
    ends = "lost" if trial.outcome and trial.outcome.failure and trial.outcome.failure.stage == "worker" else "finished"
    if how.count("finished") != (ends == "finished") or how[-1:] != [ends]:
        problems.append(f"its attempts ended as {how}")
    if [attempt.attempt for attempt in attempts] != list(range(1, trial.attempt + 1)):
        problems.append(f"it is at attempt {trial.attempt} after attempts {[each.attempt for each in attempts]}")
    for one, other in pairwise(attempts):
        if one.ended_at is None or other.started_at < one.ended_at - CLOCKS_APART_SECONDS:
            problems.append(f"attempt {other.attempt} began before attempt {one.attempt} had ended")
    return problems


def overdue(running: Sequence[TrialRecord], now: float) -> list[str]:
    """Return the trials that are said to run long after their lease has ended."""
    return [trial.id for trial in running if (trial.lease_until or 0.0) + GRACE_SECONDS < now]


def overlapping(intervals: Sequence[dict[str, Any]]) -> list[str]:
    """Return the measurements that were going on on one device at the same time."""
    found = [f"{each['device']}: {each['pid']} had company" for each in intervals if each["company"]]
    for device in {each["device"] for each in intervals}:
        mine = sorted((each for each in intervals if each["device"] == device), key=lambda each: each["start"])
        found += [
            f"{device}: {one['pid']} until {one['end']:.3f}, {other['pid']} from {other['start']:.3f}"
            for one, other in pairwise(mine)
            if other["start"] < one["end"]
        ]
    return found


def front_of(trials: Sequence[TrialRecord]) -> list[str]:
    """Return the candidates of the front of measured trials: none is both faster and more accurate than one of them."""
    points: dict[str, tuple[float, float]] = {}
    for trial in trials:
        if trial.outcome is not None and trial.outcome.kind == "measured":
            latency, accuracy = trial.outcome.evidence.latency, trial.outcome.evidence.accuracy
            if latency is not None and accuracy is not None:
                points[trial.candidate_hash] = (latency.p50, -accuracy.accuracy)
    return sorted(
        key for key, mine in points.items()
        if not any(other != mine and other[0] <= mine[0] and other[1] <= mine[1] for other in points.values())
    )  # fmt: skip
