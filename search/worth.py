"""Worth: what each factor contributes to the speed of the best, along the twins that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise, permutations

from evaluators.candidate import Candidate
from evaluators.frozen import Frozen
from evaluators.outcome import Ratio
from search.result import SearchResult, TrialResult
from search.twins import speedup_over
from search.wording import pruning_of, show_speedup

FACTORS = ("backend", "quantization", "pruning", "batch size")
"""In the order in which they are applied where the measured twins leave a choice."""


class Step(Frozen):
    """Two trials of the search of which the second has more of what the best has.

    Attributes:
        factors: in what they differ; several where none of the trials between them was measured.
        change: the same in words, as in ``eager → openvino``.
        before / after: the numbers of the trials.
        ratio: examples per second of ``after`` over those of ``before``, with a 95 % interval.
        in_turn: whether drift of the machine cancels in the ratio.
        differs: in what else they differ, for want of an exact twin.
    """

    factors: tuple[str, ...]
    change: str
    before: int
    after: int
    ratio: Ratio
    in_turn: bool
    differs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The factors as one name: ``quantization_and_pruning``."""
        return "_and_".join(factor.replace(" ", "_") for factor in self.factors)


class Worth(Frozen):
    """The way from the original model to the best of a search.

    Attributes:
        start: the number of the original model's trial, eager fp32 at the smallest batch size that was measured.
        steps: their order is a choice, and another order would share the gain out differently.
        unused: the factors in which the best is like the original.
        total: examples per second of the best over those of the original, from their own measurements. The steps
            need not multiply to it exactly.
    """

    start: int
    start_label: str
    steps: tuple[Step, ...]
    unused: tuple[str, ...]
    total: Ratio


def worth_of(result: SearchResult, trials: Sequence[TrialResult]) -> Worth | None:
    """Return what each factor is worth, along the path with the most measured twins; None where nothing is known."""
    best = result.best
    if best is None:
        return None
    timed = [
        trial for trial in trials
        if trial.latency_ms is not None and trial.latency_ms.clean and trial.candidate.target == best.candidate.target
    ]  # fmt: skip
    start = _start(best, timed)
    if start is None or (total := _gain(best, start, result.percentile)[0]) is None:
        return None
    first, last = _parts(start.candidate), _parts(best.candidate)
    used = tuple(factor for factor in FACTORS if first[factor] != last[factor])
    path = _path(used, start, best, timed)
    steps = tuple(
        _step(tuple(factor for factor in used if factor in reached - done), one, other, result.percentile)
        for (done, one), (reached, other) in pairwise(path)
    )
    known = tuple(step for step in steps if step is not None)
    if len(known) < len(steps):
        return None
    unused = tuple(factor for factor in FACTORS if factor not in used)
    return Worth(start=start.number, start_label=start.label, steps=known, unused=unused, total=total)


def worth_metrics(worth: Worth) -> dict[str, float]:
    """Return the steps as metrics, each with the ends of its interval."""
    ratios = {f"worth/{step.name}": step.ratio for step in worth.steps} | {"worth/total": worth.total}
    found = dict[str, float]()
    for name, ratio in ratios.items():
        found |= {name: ratio.value, f"{name}_ci95_low": ratio.ci95[0], f"{name}_ci95_high": ratio.ci95[1]}
    return found


def show_worth(worth: Worth) -> list[str]:
    """Say what every factor is worth, and what is not known of it."""
    lines = []
    for step in worth.steps:
        said = f"{' and '.join(step.factors)} ({step.change}): {show_speedup(step.ratio.value, step.ratio.ci95)}"
        if len(step.factors) > 1:
            said += "; each alone is unknown, since no trial between them was measured"
        if step.differs:
            said += f"; the trials also differ in {' and '.join(step.differs)}"
        lines.append(said)
    lines += [f"{factor}: as in the original" for factor in worth.unused]
    return [*lines, f"together: {show_speedup(worth.total.value, worth.total.ci95)} the examples per second"]


def _parts(candidate: Candidate) -> dict[str, object]:
    """Return what a candidate chose for each factor."""
    return {"backend": candidate.backend, "quantization": candidate.quantization, "pruning": candidate.pruning,
            "batch size": candidate.batch_size}  # fmt: skip


def _start(best: TrialResult, timed: Sequence[TrialResult]) -> TrialResult | None:
    """Return the original at the smallest batch size, at the threads of the best if it was measured so."""
    threads = best.candidate.runtime.threads
    return min(
        (trial for trial in timed if trial.candidate.is_original),
        key=lambda trial: (trial.candidate.batch_size, trial.candidate.runtime.threads != threads, trial.number),
        default=None,
    )


def _path(
    used: tuple[str, ...], start: TrialResult, best: TrialResult, timed: Sequence[TrialResult]
) -> list[tuple[frozenset[str], TrialResult]]:
    """Return the way from start to best over the most measured twins: the factors of the best so far, and a trial."""
    between = [frozenset(some) for size in range(1, len(used)) for some in combinations(used, size)]
    twins = {done: twin for done in between if (twin := _twin(done, start, best, timed)) is not None}
    ways = []
    for order in permutations(used):
        passed = [frozenset(order[:length]) for length in range(1, len(order))]
        ways.append([(done, twins[done]) for done in passed if done in twins])
    longest = max(ways, key=len)
    return [(frozenset(), start), *longest, *([(frozenset(used), best)] if used else [])]


def _twin(
    done: frozenset[str], start: TrialResult, best: TrialResult, timed: Sequence[TrialResult]
) -> TrialResult | None:
    """Return the trial that has the factors in ``done`` from the best and the others from the original."""
    first, last = _parts(start.candidate), _parts(best.candidate)
    wanted = {factor: last[factor] if factor in done else first[factor] for factor in FACTORS}
    return min(
        (trial for trial in timed if _parts(trial.candidate) == wanted),
        key=lambda trial: (len(_differences(trial.candidate, best.candidate)), trial.number),
        default=None,
    )


def _step(factors: tuple[str, ...], one: TrialResult, other: TrialResult, percentile: str) -> Step | None:
    ratio, in_turn = _gain(other, one, percentile)
    if ratio is None:
        return None
    change = ", ".join(f"{_said(factor, one.candidate)} → {_said(factor, other.candidate)}" for factor in factors)
    return Step(factors=factors, change=change, before=one.number, after=other.number, ratio=ratio, in_turn=in_turn,
                differs=_differences(one.candidate, other.candidate))  # fmt: skip


def _gain(after: TrialResult, before: TrialResult, percentile: str) -> tuple[Ratio | None, bool]:
    """Return the examples per second of one trial over those of another, and whether drift cancels in it."""
    ratio, in_turn = speedup_over(after, before, percentile)
    if ratio is None:
        return None, False
    scale = after.candidate.batch_size / before.candidate.batch_size
    low, high = ratio.ci95
    return Ratio(value=round(ratio.value * scale, 4), ci95=(round(low * scale, 4), round(high * scale, 4))), in_turn


def _differences(one: Candidate, other: Candidate) -> tuple[str, ...]:
    """Name what else two trials differ in: their threads, and the options of a backend that both run on."""
    found = ["threads"] if one.runtime.threads != other.runtime.threads else []
    if one.backend == other.backend:
        mine, theirs = one.runtime.knobs, other.runtime.knobs
        found += sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
    return tuple(found)


def _said(factor: str, candidate: Candidate) -> str:
    if factor == "pruning":
        return pruning_of(candidate)
    return {"backend": candidate.backend, "quantization": candidate.quantization.scheme,
            "batch size": str(candidate.batch_size)}[factor]  # fmt: skip
