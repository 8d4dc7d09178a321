"""What would decide the undecided: how many validation examples, or a quieter machine. Pure functions over results."""

from __future__ import annotations

from math import ceil

from evaluators.outcome import Verdict
from search.result import SearchResult, TrialResult
from search.wording import name_of


def examples_needed(verdict: Verdict, examples: int) -> int | None:
    """Estimate how many validation examples would decide a limit on accuracy, were the measured value to stay.

    The half of the interval that reaches over the limit shrinks with the square root of the number of examples, so it
    ends at the limit with ``examples * (half / distance)²`` of them. None where the value lies on the limit, which no
    number decides, and where there is no interval.
    """
    distance = verdict.constraint.limit - verdict.value
    if verdict.interval is None or distance == 0:
        return None
    half = verdict.interval[1] - verdict.value if distance > 0 else verdict.value - verdict.interval[0]
    return ceil(examples * (half / abs(distance)) ** 2)


def decided_by(trial: TrialResult) -> str:
    """Say in one sentence what would decide an undecided trial."""
    ways = [_way(trial, verdict) for verdict in trial.verdicts if verdict.status == "undecided"]
    return f"#{trial.number} {trial.label} would be decided by {' and by '.join(ways)}."


def advice(result: SearchResult) -> list[str]:
    """Say for each undecided trial that a result names what would decide it; nothing where the search found a best."""
    if result.best is not None:
        return []
    named = {trial.number: trial for trial in (*result.undecided, *result.nearest) if trial.undecided}
    return [decided_by(trial) for trial in named.values()]


def _way(trial: TrialResult, verdict: Verdict) -> str:
    if verdict.constraint.metric.startswith(("latency_", "server_")):
        again = f"measuring {name_of(verdict.constraint.metric)} again on a quieter machine"
        timed = trial.server if verdict.constraint.metric.startswith("server_") else trial.latency_ms
        clean = timed is None or timed.clean
        return f"{again}, or for longer" if clean else again
    needed = None if trial.accuracy_examples is None else examples_needed(verdict, trial.accuracy_examples)
    if needed is None:
        return f"more validation examples, unless its {name_of(verdict.constraint.metric)} lies exactly on the limit"
    end = "" if verdict.within else ", which would probably show that it misses the limit"
    return f"about {_rounded(needed):,} validation examples instead of {trial.accuracy_examples:,}{end}"


def _rounded(count: int) -> int:
    """Round to two significant digits: an estimate is no more exact."""
    return round(count, 2 - len(str(count)))
