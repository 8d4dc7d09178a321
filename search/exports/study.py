"""``--format optuna``: a whole search as an Optuna study in a database, for optuna-dashboard. It carries no bundle."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search.exports.format import Written
from search.front import objective_value
from search.result import SearchResult, TrialResult
from search.tracked_trial import params_of

OPTUNA = "optuna"
FILE = "study.db"
_ENDED = ("measured", "rejected", "failed")


def write_study(result: SearchResult, trials: Sequence[TrialResult], folder: Path) -> Written:
    """Write the trials that have ended into ``study.db``: complete ones with both values, the others as pruned.

    The objective is minimised, so throughput is negative; accuracy is maximised. Every verdict is a constraint.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    ended = [trial for trial in trials if trial.outcome in _ENDED]
    choices: dict[str, dict[str, None]] = {}
    for trial in ended:
        for name, value in params_of(trial.candidate).items():
            choices.setdefault(name, {})[value] = None
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / FILE}")
    study = optuna.create_study(study_name=result.name, storage=storage, directions=["minimize", "maximize"])
    study.set_metric_names([result.objective, "accuracy"])
    limits = [limit.model_dump(mode="json") for limit in result.constraints]
    study.set_user_attr("paretune", {"search": result.search, "workload": result.workload, "limits": limits})
    study.add_trials([_frozen(trial, result, choices) for trial in ended])
    storage.engine.dispose()
    left = len(trials) - len(ended)
    notes = (f"{left} trials have not ended and are not in it",) if left else ()
    return Written(f"optuna-dashboard sqlite:///{FILE}", notes)


def _frozen(trial: TrialResult, result: SearchResult, choices: dict[str, dict[str, None]]) -> Any:
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import TrialState, create_trial

    params = params_of(trial.candidate)
    value = objective_value(trial, result.objective, result.percentile)
    values = None if value is None or trial.accuracy is None else [value, trial.accuracy]
    told = {"number": trial.number, "label": trial.label, "source": trial.source, "outcome": trial.outcome,
            "reason": trial.reason, "feasible": trial.feasible, "bundle": trial.bundle}  # fmt: skip
    return create_trial(
        state=TrialState.COMPLETE if values else TrialState.PRUNED,
        values=values,
        params=params,
        distributions={name: CategoricalDistribution(tuple(choices[name])) for name in params},
        user_attrs={name: item for name, item in told.items() if item is not None},
        constraints={verdict.constraint.metric: verdict.violation for verdict in trial.verdicts},
    )
