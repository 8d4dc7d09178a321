"""TPE as Optuna has it, quicker: what it works out anew for every group of choices is worked out once.

Optuna 5.0 splits all trials into good and bad for each group of choices that belong together, estimates both anew at
each ask, and reads the groups from all trials each time. While the trials are the same these are the same, so they are
kept here. What is suggested is what Optuna suggests, to the last random number; a test holds that.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from optuna.samplers import TPESampler
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator
from optuna.samplers._tpe.sampler import _split_trials, default_gamma_multiobjective
from optuna.search_space.group_decomposed import _SearchSpaceGroup
from optuna.trial import FrozenTrial, TrialState

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study

_LEARNT_FROM = (TrialState.COMPLETE, TrialState.PRUNED)


class QuickTpe(TPESampler):
    """TPE for several objectives: multivariate within the choices that belong together, shy of what still runs."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed, multivariate=True, group=True, constant_liar=True)
        self._group_decomposed_search_space = _Groups()  # type: ignore[assignment]
        self._for: tuple[object, list[tuple[int, TrialState]]] = (None, [])
        self._halves: tuple[list[FrozenTrial], list[FrozenTrial]] = ([], [])
        self._estimators: dict[tuple[str, ...], tuple[_ParzenEstimator, _ParzenEstimator]] = {}

    def _sample(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Sample one group of choices as Optuna does."""
        good, bad = self._estimated(study, trial, search_space)
        samples = good.sample(self._rng.rng, self._n_ei_candidates)
        chosen = self._compare(samples, self._compute_acquisition_func(samples, good, bad))
        return {name: distribution.to_external_repr(chosen[name]) for name, distribution in search_space.items()}

    def _estimated(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> tuple[_ParzenEstimator, _ParzenEstimator]:
        """Return where the good and the bad trials are in one group of choices, all but this trial considered."""
        states = (*_LEARNT_FROM, TrialState.RUNNING)
        others = [each for each in study.get_trials(deepcopy=False, states=states) if each.number != trial.number]
        now = (study._storage, [(each.number, each.state) for each in others])
        if now != self._for:
            finished = sum(each.state != TrialState.RUNNING for each in others)
            self._halves = _split_trials(study, others, default_gamma_multiobjective(finished))
            self._for, self._estimators = now, {}
        names = tuple(search_space)
        if names not in self._estimators:
            below, above = self._halves
            self._estimators[names] = (
                self._build_parzen_estimator(study, search_space, below, handle_below=True),
                self._build_parzen_estimator(study, search_space, above, handle_below=False),
            )
        return self._estimators[names]


class _Groups:
    """The groups of choices that always come together; each combination of choices is looked at once."""

    def __init__(self) -> None:
        self._groups = _SearchSpaceGroup()
        self._seen: set[frozenset[str]] = set()

    def calculate(self, study: Study, use_cache: bool = False) -> _SearchSpaceGroup:
        for trial in study.get_trials(deepcopy=False, states=_LEARNT_FROM):
            names = frozenset(trial.distributions)
            if names not in self._seen:
                self._seen.add(names)
                self._groups.add_distributions(trial.distributions)
        return copy.copy(self._groups)
