"""A finished search in MLflow without running anything: made up trials through the real ledger and its projection."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from evaluators.bundle import read_manifest
from search.mlflow_store import mlflow_fails_as
from search.projection import Projection
from search.promotion.card import card_of, clipped_card, tags_of_version
from search.promotion.registry import Registry
from search.result import SearchResult, TrialResult
from search.view import search_result, trial_results
from tests.search.bundles import a_bundle, a_certificate
from tests.search.factories import TARGET, a_profile, a_spec, a_target, an_outcome, made_up_trials
from workers.ledger import Ledger

OWNER = "showcase"
NAME = "fashion-cpu"


@dataclass(frozen=True)
class Showcase:
    """A home with one search."""

    home: Path
    result: SearchResult
    trials: tuple[TrialResult, ...]

    def run_of(self, number: int) -> str:
        """Return the MLflow run of a trial."""
        return str(self.trials[number].mlflow_run_id)


def a_showcase(
    home: Path, count: int, took: Callable[[str, float], None] = lambda what, seconds: None, pause_s: float = 0.0
) -> Showcase:
    """Make a search of ``count`` trials and show it in the home's MLflow store.

    Args:
        took: is told how long the projection took for each ``trial``, and at the ``end``.
        pause_s: between trials, as if each had run so long.
    """
    spec, profile, target = a_spec(trials=count), a_profile(), a_target()
    notes: list[str] = []
    with closing(Ledger.at(home)) as ledger, Projection(home, notes.append) as projection:
        record = ledger.create_search(spec.workload, spec.to_json(), name=NAME)
        record = ledger.update_search(record.id, profile=profile, status="running")
        projection.start(record, spec, profile, (target,))
        for number, (candidate, source, how) in enumerate(made_up_trials(count, spec)):
            trial = ledger.add_trial(record.id, candidate, source, "", gates=source != "baseline")  # type: ignore[arg-type]
            ledger.claim(trial.id, trial.attempt, OWNER, 60.0)
            ledger.finish(trial.id, trial.attempt, OWNER, an_outcome(number, candidate, **how))
            trials = trial_results(ledger.trials(record.id), spec)
            begun = time.perf_counter()
            projection.deliver(ledger, record.id, trials)
            took("trial", time.perf_counter() - begun)
            time.sleep(pause_s)
        trials = trial_results(ledger.trials(record.id), spec)
        result = search_result(ledger.search(record.id), spec, trials, (TARGET,), home)
        for trial_on_front in result.front:
            a_bundle(home / str(trial_on_front.bundle), candidate=trial_on_front.candidate)
        begun = time.perf_counter()
        projection.finish(result, trials, profile, (target,))
        took("end", time.perf_counter() - begun)
        ledger.update_search(record.id, status="finished", result=result.to_json())
    if notes:
        raise RuntimeError("; ".join(notes))
    return Showcase(home, result, tuple(trials))


def promoted(showcase: Showcase, model: str, alias: str) -> int:
    """Register the best as a version with its card and point an alias at it, as a promotion does behind its gates."""
    registry, best = Registry(showcase.home), showcase.result.best
    if best is None:
        raise RuntimeError("nothing is feasible")
    run_id = showcase.run_of(best.number)
    with mlflow_fails_as("find the model of the best"):
        experiment = registry.client.get_run(run_id).info.experiment_id
        [logged] = registry.client.search_logged_models([experiment], "tags.`paretune.best` = 'true'")
    manifest = read_manifest(showcase.home / str(best.bundle))
    certificate = a_certificate(manifest, search=showcase.result.search, trial=best.number, label=best.label)
    card = card_of(certificate, manifest, a_profile(), f"{model}@{alias}")
    version = registry.register(model, logged.artifact_location, run_id, logged.model_id,
                                tags_of_version(certificate, manifest), clipped_card(card))  # fmt: skip
    registry.point(model, alias, version)
    return version
