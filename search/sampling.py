"""Sampler: Optuna behind an adapter of ours — candidates in and out, its version-sensitive calls in one file.

The study lives in memory and is rebuilt from the ledger: constraints are told as normalized violations under the same
keys in the same order for every trial; what failed for a reason of its own is told as pruned, and is learnt from.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from evaluators.candidate import Candidate, Scalar
from evaluators.joint_space import TARGET, JointSpace
from evaluators.parameters import Number, Parameter
from search.lessons import MOST_SHOWN, kept
from search.lessons import Told as Told

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial, TrialState

ASKS_PER_CANDIDATE = 10
ASKS_WHEN_FULL = 3
"""So often at most a candidate is asked for, where repeats come, before and after the sampler has seen much."""

Instead = Callable[[Candidate], str | None]
"""Returns the hash of a known candidate that says all there is to expect of another one, or None."""

RANDOM_TRIES = 200
SMALL_SPACE = 20_000


class Sampler:
    """Asks a TPE for candidates of a space; minimises the objective and maximises accuracy under constraints.

    ``multivariate`` and ``group`` are on: below about 60 trials they are the steadier choice. Once it has seen
    ``MOST_SHOWN`` trials it is shown the best and the latest ones only, so that an ask takes the same time however
    many there are.
    """

    def __init__(self, space: JointSpace, seed: int) -> None:
        import optuna

        from search.tpe import QuickTpe

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self._space = space
        self._random = random.Random(seed)  # noqa: S311
        self._tpe = QuickTpe(seed)
        self._study = self._new_study()
        self._parameters = dict(space.dimensions())
        self._running: dict[str, Trial] = {}
        self._carried: dict[str, int] = {}
        self._told: dict[str, Told] = {}
        self._candidates: dict[str, Candidate] = {}
        self._shown = 0
        self._is_full = False
        self._rest: dict[tuple[str, ...], list[Candidate]] = {}

    def ask(
        self, known: Mapping[str, Told | None], avoid: Collection[str] = (), instead: Instead = lambda candidate: None
    ) -> Candidate | None:
        """Return a candidate that is not in ``known`` (by hash), or None if the space is exhausted.

        A repeat is answered with what is known of it (None: it still runs), and asked again; after ten repeats a random
        unseen candidate takes its place. It is of none of the targets to ``avoid``. Once the sampler has seen much,
        repeats are no longer answered, and fewer. What ``instead`` knows another candidate for counts as a repeat of
        that one, and comes only where nothing else is left.
        """
        offered = [target for target in self._space.targets if target not in avoid]
        if not offered:
            return None
        for _ in range(ASKS_WHEN_FULL if self._is_full else ASKS_PER_CANDIDATE):
            if len(offered) < len(self._space.targets):
                self._study.enqueue_trial({TARGET: self._random.choice(offered)})
            trial = self._study.ask()
            candidate = self._space.walk(partial(_suggest, trial))
            name = candidate.hash if candidate.hash in known else instead(candidate)
            if name is None:
                self._running[candidate.hash] = trial
                self._candidates[candidate.hash] = candidate
                return candidate
            told = known.get(name)
            if told is not None and not self._is_full:
                self._finish(trial, told)
            else:
                self._study.tell(trial, state=_state("FAIL"))
        return self.unseen(known, offered, instead)

    def unseen(
        self, known: Collection[str], targets: Sequence[str], instead: Instead = lambda candidate: None
    ) -> Candidate | None:
        """Return a random candidate of these targets that is not in ``known``, or None if there is none.

        What ``instead`` knows another candidate for comes last.
        """
        for _ in range(RANDOM_TRIES):
            space = self._space.of(targets[0] if len(targets) == 1 else self._random.choice(targets))
            candidate = space.walk(lambda _, parameter: self._random.choice(parameter.values))
            if candidate.hash not in known and instead(candidate) is None:
                return candidate
        spaces = [self._space.of(target) for target in targets]
        if sum(space.size for space in spaces) > SMALL_SPACE:
            return None
        left = self._rest.get(tuple(targets))
        everything = (each for space in spaces for each in space.candidates()) if left is None else left
        rest = self._rest[tuple(targets)] = [each for each in everything if each.hash not in known]
        first = [each for each in rest if instead(each) is None]
        return self._random.choice(first or rest) if rest else None

    def tell(self, candidate: Candidate, told: Told) -> None:
        """Tell how a candidate ended, whoever proposed it."""
        if (trial := self._running.pop(candidate.hash, None)) is not None:
            self._finish(trial, told)
        else:
            lesson = self._lesson(candidate, "COMPLETE" if told.values else "PRUNED", told)
            if (number := self._carried.pop(candidate.hash, None)) is not None:
                self._study.tell(number, state=_state("FAIL"))
            self._study.add_trial(lesson)
            self._shown += 1
        self._candidates[candidate.hash] = candidate
        self._told.pop(candidate.hash, None)
        self._told[candidate.hash] = told
        if self._shown > MOST_SHOWN:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """Show the sampler the best and the latest trials, and those that run, and nothing else any more."""
        self._study = self._new_study()
        shown = kept(self._told)
        for name in shown:
            told = self._told[name]
            self._study.add_trial(self._lesson(self._candidates[name], "COMPLETE" if told.values else "PRUNED", told))
        running = [*self._carried, *self._running]
        for name in running:
            self._study.add_trial(self._lesson(self._candidates[name], "RUNNING"))
        self._carried, self._running = {name: len(shown) + n for n, name in enumerate(running)}, {}
        self._shown, self._is_full = len(shown), True

    def _new_study(self) -> Study:
        import optuna

        return optuna.create_study(directions=["minimize", "maximize"], sampler=self._tpe)

    def _lesson(self, candidate: Candidate, state: str, told: Told | None = None) -> FrozenTrial:
        """Return a candidate as a trial of the study."""
        import optuna

        choices = self._space.choices_of(candidate)
        parameters = self._parameters
        return optuna.trial.create_trial(
            state=_state(state), values=told.values if told else None,
            params={name: _encoded(parameters[name], value) for name, value in choices.items()},
            distributions={name: _distribution(parameters[name]) for name in choices},
            constraints=told.violations if told else None,
        )  # fmt: skip

    def _finish(self, trial: Trial, told: Told) -> None:
        for key, violation in told.violations.items():
            trial.set_constraint(key, violation)
        if told.values is None:
            self._study.tell(trial, state=_state("PRUNED"))
        else:
            self._study.tell(trial, told.values)
        self._shown += 1


def _state(name: str) -> TrialState:
    from optuna.trial import TrialState

    return TrialState[name]


def _is_ordered(values: Sequence[Scalar]) -> bool:
    return len(values) > 2 and all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _distribution(parameter: Parameter) -> BaseDistribution:
    """Numbers keep their scale; ordered choices become positions, so that 16 lies between 8 and 32."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Number):
        return FloatDistribution(parameter.low, parameter.high, step=parameter.step)
    if _is_ordered(parameter.values):
        return IntDistribution(0, len(parameter.values) - 1)
    return CategoricalDistribution(parameter.values)


def _encoded(parameter: Parameter, value: Scalar) -> Scalar:
    if isinstance(parameter, Number) or not _is_ordered(parameter.values):
        return value
    return parameter.values.index(value)


def _suggest(trial: Trial, name: str, parameter: Parameter) -> Scalar:
    if isinstance(parameter, Number):
        return round(trial.suggest_float(name, parameter.low, parameter.high, step=parameter.step), 4)
    if _is_ordered(parameter.values):
        return parameter.values[trial.suggest_int(name, 0, len(parameter.values) - 1)]
    value: Scalar = trial.suggest_categorical(name, parameter.values)  # type: ignore[assignment]
    return value
