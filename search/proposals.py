"""Proposals: which candidate comes next. Baselines and known-good recipes first, then the sampler and the
neighbours of the best in turn, and last the float references that the best is to be compared with."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from evaluators.candidate import Candidate, Scalar
from evaluators.joint_space import TARGET, JointSpace
from evaluators.parameters import Number, Parameter
from evaluators.space import Space, values_of
from search.front import best_trial, nearest_trials, pareto_front
from search.result import TrialResult
from search.sampling import Instead, Sampler, Told
from search.spec import SearchSpec
from workers.records import TrialSource

ASSUMED_SPEEDUP = 4
"""How much faster than eager fp32 a good candidate may be, for guessing the batch size that fills the budget."""

REQUEST_CALLS = 2
"""A request to a server may have to wait for the call before its own, so that a call has half of the budget."""

FLOAT = "fp32"

MOST_ANCHORS = 128
"""Of so many candidates the neighbours are kept in memory."""


@dataclass(frozen=True)
class Proposal:
    """A candidate, who proposed it, and whether gates may stop it early."""

    candidate: Candidate
    source: TrialSource
    gates: bool = True


class Proposer:
    """Decides the next candidate from what is known; what it keeps besides its random numbers follows from the space.

    Of the trials it needs those that decide: ``Standing.shortlist``, or all of them. What ``instead`` knows another
    candidate for, as for a larger batch beyond saturation, is proposed only where nothing else is left.
    """

    def __init__(
        self, space: JointSpace, spec: SearchSpec, sampler: Sampler, seed: int,
        instead: Instead = lambda candidate: None,
    ) -> None:  # fmt: skip
        self._instead = instead
        self._space = space
        self._spec = spec
        self._sampler = sampler
        self._random = random.Random(seed)  # noqa: S311
        self._openings: dict[tuple[str, int], list[Proposal]] = {}
        self._neighbours = Neighbours(space)

    def next(
        self, trials: Sequence[TrialResult], told: Mapping[str, Told | None], remaining: int,
        avoid: Collection[str] = (),
    ) -> Proposal | None:  # fmt: skip
        """Return the next proposal, or None if every candidate of the space was tried.

        ``told`` knows every candidate of the search by hash, and only those; ``remaining`` is the number of trials
        still allowed. Nothing is proposed for the targets to ``avoid``: nobody is there to run it.
        """
        missing = [item for item in self.references(trials)
                   if item.candidate.hash not in told and item.candidate.target not in avoid]  # fmt: skip
        if missing and remaining <= len(missing):
            return missing[0]
        for proposal in self._opening(trials):
            if proposal.candidate.hash not in told and proposal.candidate.target not in avoid:
                return proposal
        if len(told) % 2 and (neighbour := self._neighbour(trials, told, avoid)) is not None:
            return Proposal(neighbour, "neighbour")
        candidate = self._sampler.ask(told, avoid, self._instead)
        return None if candidate is None else Proposal(candidate, "sampled")

    def references(self, trials: Sequence[TrialResult]) -> list[Proposal]:
        """Return the unmodified float candidates of every backend at target, batch size and threads of the best."""
        best = best_trial(pareto_front(trials, self._spec.goal, self._spec.percentile))
        return [] if best is None else self.references_of(best.candidate)

    def references_of(self, candidate: Candidate) -> list[Proposal]:
        """Return the unmodified float candidates of every backend that ``candidate`` would be compared with."""
        space, batch_size, threads = self._space.of(candidate.target), candidate.batch_size, candidate.runtime.threads
        return [
            Proposal(space.as_written(backend, batch_size, threads), "reference", gates=False)
            for backend, schemes in space.schemes.items()
            if FLOAT in schemes
        ]

    def beside_best(self, trials: Sequence[TrialResult], told: Mapping[str, Told | None]) -> Proposal | None:
        """Return an unseen neighbour of the best at its own batch size and threads, which needs no new references."""
        best = best_trial(pareto_front(trials, self._spec.goal, self._spec.percentile))
        if best is None:
            return None
        for name, candidates in self._neighbours.of(best.candidate).items():
            unseen = [candidate for candidate in candidates if candidate.hash not in told]
            if unseen and name not in (TARGET, "batch_size", "threads"):
                return Proposal(unseen[0], "neighbour")
        return None

    def _opening(self, trials: Sequence[TrialResult]) -> Iterator[Proposal]:
        """Yield the opening of every target, one of each in turn: one that is slow to answer holds up no other."""
        openings = [self._opening_of(space, self._filling_batch(space, trials)) for space in self._space.parts.values()]
        for proposals in zip_longest(*openings):
            yield from (proposal for proposal in proposals if proposal is not None)

    def _opening_of(self, space: Space, batch_size: int) -> Sequence[Proposal]:
        """Return the baseline, every backend's float model, and every backend's known-good recipes on one target."""
        known = self._openings.get((space.target.name, batch_size))
        if known is not None:
            return known
        found = []
        if "eager" in space.schemes:
            found.append(Proposal(space.as_written("eager", min(space.batch_sizes)), "baseline", gates=False))
        found += [Proposal(space.as_written(backend, batch_size), "baseline", gates=False)
                  for backend, schemes in space.schemes.items() if FLOAT in schemes]  # fmt: skip
        found += [Proposal(space.recipe(backend, scheme, batch_size), "recipe")
                  for backend, schemes in space.recipes.items() for scheme in schemes if scheme != FLOAT]  # fmt: skip
        return self._openings.setdefault((space.target.name, batch_size), found)

    def _filling_batch(self, space: Space, trials: Sequence[TrialResult]) -> int:
        """Guess the batch size that fills the latency budget, from the target's baseline at the smallest one."""
        sizes, budget = space.batch_sizes, self._spec.latency_budget_ms
        if budget is not None and self._spec.scenario == "server":
            budget /= REQUEST_CALLS
        baselines = (trial for trial in trials
                     if trial.source == "baseline" and trial.candidate.target == space.target.name)  # fmt: skip
        first = next((trial.latency_at(self._spec.percentile) for trial in baselines), None)
        fills = self._spec.goal in ("throughput", "cost") or self._spec.scenario == "server"
        if not fills or budget is None or not first:
            return min(sizes)
        fitting = [size for size in sizes if first * (size / min(sizes)) / ASSUMED_SPEEDUP <= budget]
        return max(fitting, default=min(sizes))

    def _neighbour(
        self, trials: Sequence[TrialResult], told: Mapping[str, Told | None], avoid: Collection[str]
    ) -> Candidate | None:
        """Return an unseen candidate one choice away from the best, or from another model of the front."""
        front = pareto_front(trials, self._spec.goal, self._spec.percentile) or nearest_trials(trials)
        if not front:
            return None
        anchors = [front[0]] * 2 + list(front[1:])
        self._random.shuffle(anchors)
        for anchor in anchors:
            unseen = {
                name: fresh for name, found in self._neighbours.unseen(anchor.candidate, told).items()
                if (fresh := [each for each in found if each.target not in avoid and self._instead(each) is None])
            }  # fmt: skip
            if unseen:
                return unseen[self._random.choice(sorted(unseen))][0]
        return None


class Neighbours:
    """The neighbours of a candidate and those of them that nobody has tried, worked out once.

    What was tried stays tried: an anchor without unseen neighbours is not looked at again.
    """

    def __init__(self, space: JointSpace) -> None:
        self._space = space
        self._found: OrderedDict[str, dict[str, list[Candidate]]] = OrderedDict()
        self._exhausted: set[str] = set()

    def of(self, candidate: Candidate) -> dict[str, list[Candidate]]:
        """Return the candidates that differ in one choice, see ``neighbours``."""
        found = self._found.get(candidate.hash)
        if found is None:
            found = self._found[candidate.hash] = neighbours(self._space, candidate)
        self._found.move_to_end(candidate.hash)
        if len(self._found) > MOST_ANCHORS:
            self._found.popitem(last=False)
        return found

    def unseen(self, candidate: Candidate, told: Collection[str]) -> dict[str, list[Candidate]]:
        """Return those that are not among ``told``, which may only grow, by the choice in which they differ."""
        if candidate.hash in self._exhausted:
            return {}
        unseen = {
            name: fresh for name, found in self.of(candidate).items()
            if (fresh := [each for each in found if each.hash not in told])
        }  # fmt: skip
        if not unseen:
            self._exhausted.add(candidate.hash)
        return unseen


def neighbours(joint: JointSpace, candidate: Candidate) -> dict[str, list[Candidate]]:
    """Return the candidates that differ in one choice, by its name, the nearest value first.

    Choices that a change brings with it take their known-good value; those that still apply keep theirs.
    """
    space = joint.of(candidate.target)
    choices = space.choices_of(candidate)
    parameters = dict(space.dimensions())
    everything = values_of(candidate)
    elsewhere = [_changed(other, everything) for other in joint.parts.values() if other is not space]
    found: dict[str, list[Candidate]] = {TARGET: elsewhere} if elsewhere else {}
    for name, value in choices.items():
        for other in _by_distance(parameters[name], value):
            changed = _changed(space, choices, name, other)
            if changed.hash != candidate.hash:
                found.setdefault(name, []).append(changed)
    return found


def _changed(space: Space, choices: Mapping[str, Scalar], name: str = "", value: Scalar = "") -> Candidate:
    """Return the candidate of ``space`` with these choices as far as they apply, and ``value`` for the one named."""
    backend = str(value if name == "backend" else choices.get("backend", next(iter(space.schemes))))
    scheme = next((kept for key, kept in choices.items() if key.endswith(".scheme")), None)

    def choose(asked: str, parameter: Parameter) -> Scalar:
        if asked == name:
            return value
        if asked in choices and choices[asked] in parameter.values:
            return choices[asked]
        if asked == f"{backend}.scheme" and scheme in parameter.values:
            return scheme
        return parameter.default

    return space.walk(choose)


def _by_distance(parameter: Parameter, value: Scalar) -> list[Scalar]:
    others = [other for other in parameter.values if other != value]
    ordered = isinstance(parameter, Number) or all(
        isinstance(item, int | float) and not isinstance(item, bool) for item in parameter.values
    )
    if not ordered:
        return others
    position = parameter.values.index(value)
    return sorted(others, key=lambda other: abs(parameter.values.index(other) - position))
