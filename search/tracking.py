"""Tracking: MLflow as a view of the ledger — a parent run per search, a run per trial, a model per bundle of the front.

Everything may be said twice: a search, a trial or a model that is already there is brought up to date, never doubled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from evaluators.errors import InfrastructureError, IntegrityError, ParetuneError
from evaluators.profile import WorkloadProfile
from evaluators.target import Target
from search.finalists import distinct
from search.history import moment_metrics, moments_of
from search.mlflow_store import artifact_location, mlflow_fails_as, open_client, store_answers
from search.pacing import Pace
from search.result import SearchResult, TrialResult
from search.saved_views import links_of, saved_views
from search.spec import SearchSpec
from search.tracked_model import log_bundle, models_of
from search.tracked_search import (
    TABLE,
    data_of,
    environment_of_search,
    search_note,
    search_tags,
    splits_of,
    table_tag,
    trials_table,
)
from search.tracked_trial import clipped, metrics_of, note_of, params_of, result_metrics, tags_of, trials_csv
from search.worth import worth_metrics, worth_of

_PAGE = 1000
_MOMENTS = 100
"""How many moments are written at once: MLflow takes 1,000 metrics in a call."""
_PICTURE_EVERY_S, _PICTURE_SHARE = 30.0, 0.02
_ABOUT = "Searches of paretune for {}: a run for each search, and below it a run for each trial."
_NOTE = "mlflow.note.content"
_ENDINGS = {"feasible": "FINISHED", "infeasible": "FINISHED", "interrupted": "KILLED"}


class Tracking:
    """Writes one search to the MLflow store of a home.

    ``open`` and ``start_search`` come first; they may run in different threads, one after the other.
    Every method raises InfrastructureError where MLflow fails: nothing here may end a search. What a request did whose
    answer was lost is unknown then: ``start_search`` comes first again, and finds out.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._client: Any = None
        self._search = ""
        self._experiment = ""
        self._parent = ""
        self._runs: dict[int, str] = {}
        self._models: dict[int, str] = {}
        self._notes: dict[int, str] = {}
        self._marked: set[int] = set()
        self._profile: WorkloadProfile | None = None
        self._moment: dict[str, float] | None = None
        self._standing: dict[str, str] = {}
        self._pictures = Pace(every_s=_PICTURE_EVERY_S, share=_PICTURE_SHARE)

    def open(self) -> None:
        """Import MLflow and open its store; takes seconds the first time, so do it while something else runs."""
        self._client = open_client(self._home)

    def start_search(
        self, search_id: str, name: str, spec: SearchSpec, profile: WorkloadProfile, targets: Sequence[Target]
    ) -> str:
        """Return the search's parent run, which is made or, where a search goes on, found and set to running."""
        with mlflow_fails_as("start the search"):
            self._search, self._profile = search_id, profile
            self._moment, self._standing = None, {}
            self._experiment = self._find_experiment(profile.name)
            parents = self._find_runs()
            self._parent = self._find_parent(parents)
            tags = {
                "paretune.search": search_id, "paretune.kind": "search", "paretune.name": name,
                "paretune.target": ",".join(target.name for target in targets),
                "paretune.target_fingerprint": ",".join(target.fingerprint for target in targets),
                "paretune.workload": profile.reference, "paretune.workload_fingerprint": profile.fingerprint,
                "paretune.objective": spec.goal, "paretune.confidence": str(spec.confidence),
                "mlflow.source.name": "paretune", "mlflow.source.type": "LOCAL",
            }  # fmt: skip
            if self._parent:
                self._opened.update_run(self._parent, status="RUNNING")
            else:
                run = self._opened.create_run(self._experiment, run_name=name, tags=tags)
                self._parent = str(run.info.run_id)
            self._update(self._parent, {}, _flat(spec), {})
            self._opened.log_text(self._parent, spec.model_dump_json(indent=2), "spec.json")
            self._opened.log_text(self._parent, environment_of_search(profile, targets), "environment.json")
            self._opened.log_inputs(self._parent, datasets=data_of(profile))
            for key, view in saved_views(search_id, spec.goal, spec.percentile).items():
                self._opened.set_experiment_tag(self._experiment, key, view)
            return self._parent

    def log_trial(self, trial: TrialResult) -> str:
        """Write a finished trial as a run and return its id; a trial that has a run gets what is new."""
        with mlflow_fails_as(f"log trial {trial.number}"):
            tags = tags_of(trial, self._search)
            known = self._runs.get(trial.number)
            if known is None:
                started = int((time.time() - sum(trial.stage_seconds.values())) * 1e3)
                identity = {key: tags[key] for key in ("paretune.search", "paretune.kind", "paretune.trial")}
                run = self._opened.create_run(
                    self._experiment, start_time=started, run_name=trial.label,
                    tags=identity | {"mlflow.parentRunId": self._parent, "mlflow.source.name": "paretune"},
                )  # fmt: skip
                known = self._runs[trial.number] = str(run.info.run_id)
                self._write(known, metrics_of(trial), params_of(trial.candidate), tags, at=started)
            else:
                self._update(known, metrics_of(trial), params_of(trial.candidate), tags)
            if self._profile is not None and (data := data_of(self._profile, splits_of(trial))):
                self._opened.log_inputs(known, datasets=data)
            self._notes[trial.number] = tags[_NOTE]
            self._marked = self._marked | {trial.number} if trial.pareto else self._marked - {trial.number}
            self._opened.set_terminated(known, "FAILED" if trial.outcome == "failed" else "FINISHED")
            return known

    def update_pareto(self, previous: Collection[int], current: Collection[int]) -> None:
        """Move the tag of the front: only trials that enter or leave it are written.

        Trials that an earlier session marked are known, so ``previous`` may be empty after a resume.
        """
        with mlflow_fails_as("mark the front"):
            for number in (self._marked | set(previous)) ^ set(current):
                if number in self._runs:
                    self._opened.set_tag(self._runs[number], "paretune.pareto", str(number in current).lower())
            self._marked = set(current)

    def show_progress(self, result: SearchResult, trials: Sequence[TrialResult]) -> None:
        """Keep the parent run up with a search that goes on: its curves, how it stands and, now and then, its picture.

        The picture is drawn again after half a minute at the earliest, and takes 2 % of the time at most.
        """
        from search.plots import pareto_figure

        with mlflow_fails_as("show how the search goes"):
            self._write_moments(result, trials)
            standing = search_tags(result) | {"paretune.status": "running"}
            if changed := {key: value for key, value in standing.items() if self._standing.get(key) != value}:
                self._write(self._parent, {}, {}, changed)
                self._standing |= changed
            if self._pictures.due(time.monotonic()):
                begun = time.monotonic()
                self._opened.log_text(self._parent, pareto_figure(result, trials).to_html(), "front.html")
                self._pictures.took(begun, time.monotonic() - begun)

    def finish_search(
        self,
        result: SearchResult,
        trials: Sequence[TrialResult],
        profile: WorkloadProfile,
        report: Path | None = None,
        picture: Path | None = None,
        example: Path | None = None,
    ) -> None:
        """Complete the parent run with the result, its report and plots, and log the models of the front.

        Args:
            example: an ``.npz`` with an array for each input; its first batch is shown with every model.

        Raises:
            IntegrityError: a bundle of the front is not what was built; all else was written.
        """
        with mlflow_fails_as("finish the search"):
            worth = worth_of(result, trials)
            front = [self._runs[trial.number] for trial in result.front if trial.number in self._runs]
            links = links_of(self._experiment, self._search, self._parent, front)
            tags = search_tags(result) | {
                _NOTE: search_note(result, worth, links),
                "mlflow.loggedArtifacts": table_tag(),
            }
            metrics = result_metrics(result) | (worth_metrics(worth) if worth is not None else {})
            self._update(self._parent, metrics, {}, tags)
            self._write_moments(result, trials)
            self._write_notes(trials)
            self._attach(result, trials, report, picture)
            failures = self._log_models(result, example)
            self._opened.set_terminated(self._parent, _ENDINGS[result.status])
        if failures:
            raise _as_one(failures)

    @property
    def run_ids(self) -> dict[int, str]:
        """The run of every trial that was logged, by number, earlier sessions included."""
        return dict(self._runs)

    @property
    def model_ids(self) -> dict[int, str]:
        """The MLflow model of every trial of the last front that was finished, by number."""
        return dict(self._models)

    @property
    def _opened(self) -> Any:
        if self._client is None:
            raise InfrastructureError("MLflow is not open; call open() first")
        return self._client

    def _find_experiment(self, name: str) -> str:
        known = self._opened.get_experiment_by_name(name)
        if known is None:
            location = artifact_location(self._home, name)
            tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": _ABOUT.format(name)}
            return str(self._opened.create_experiment(name, artifact_location=location, tags=tags))
        if known.lifecycle_stage == "deleted":
            self._opened.restore_experiment(known.experiment_id)
        return str(known.experiment_id)

    def _find_runs(self) -> set[str]:
        """Read which trials have a run, leave each one only, and return the runs that they name as their parent."""
        self._runs, self._notes, self._marked, parents = {}, {}, set(), set()
        runs = self._search_runs(f"tags.`paretune.search` = '{self._search}' and tags.`paretune.kind` = 'trial'")
        for run in sorted(runs, key=_age):
            number, run_id = int(run.data.tags["paretune.trial"].rpartition("/")[2]), str(run.info.run_id)
            if number in self._runs:
                self._opened.delete_run(run_id)
                continue
            self._runs[number], self._notes[number] = run_id, run.data.tags.get(_NOTE, "")
            parents.add(run.data.tags.get("mlflow.parentRunId", ""))
            if run.data.tags.get("paretune.pareto") == "true":
                self._marked.add(number)
        return parents

    def _find_parent(self, named: Collection[str]) -> str:
        """Return the run of the search, the one that its trials name if there are several; empty where there is none.

        The others are deleted: they come from requests whose answers were lost.
        """
        runs = self._search_runs(f"tags.`paretune.search` = '{self._search}' and tags.`paretune.kind` = 'search'")
        found = sorted(runs, key=lambda run: (run.info.run_id not in named, *_age(run)))
        for run in found[1:]:
            self._opened.delete_run(run.info.run_id)
        return str(found[0].info.run_id) if found else ""

    def _search_runs(self, condition: str) -> list[Any]:
        found, token = [], None
        while True:
            page = self._opened.search_runs([self._experiment], condition, max_results=_PAGE, page_token=token)
            found += list(page)
            token = page.token
            if not token:
                return found

    def _update(self, run_id: str, metrics: dict[str, float], params: dict[str, str], tags: dict[str, str]) -> None:
        """Write only what differs from what the run has: metrics would be doubled and parameters refused."""
        known = self._opened.get_run(run_id).data
        fresh = {name: value for name, value in metrics.items() if known.metrics.get(name) != value}
        missing = {name: value for name, value in params.items() if name not in known.params}
        moved = {name: value for name, value in tags.items() if known.tags.get(name) != value}
        if fresh or missing or moved:
            self._write(run_id, fresh, missing, moved)

    def _write(
        self,
        run_id: str,
        metrics: dict[str, float],
        params: dict[str, str],
        tags: dict[str, str],
        at: int | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        moment = int(time.time() * 1e3) if at is None else at
        self._opened.log_batch(
            run_id, metrics=[Metric(name, value, moment, 0) for name, value in metrics.items()],
            params=[Param(name, clipped(value)) for name, value in params.items()],
            tags=[RunTag(name, value) for name, value in tags.items()],
        )  # fmt: skip

    def _write_moments(self, result: SearchResult, trials: Sequence[TrialResult]) -> None:
        """Continue the curves of the parent run: a step for each finished trial that has none yet.

        The last step is written again where a trial ran again that had been counted.
        """
        from mlflow.entities import Metric

        if self._moment is None:
            known = self._opened.get_run(self._parent).data.metrics
            self._moment = {name: value for name, value in known.items() if name.startswith("progress/")}
        moments = moments_of(result, trials)
        fresh = moments[int(self._moment.get("progress/trials", 0)) :]
        if not fresh and moments and moment_metrics(moments[-1], result) != self._moment:
            fresh = moments[-1:]
        now = int(time.time() * 1e3)
        for first in range(0, len(fresh), _MOMENTS):
            part = fresh[first : first + _MOMENTS]
            self._opened.log_batch(self._parent, metrics=[
                Metric(name, value, now, moment.trials)
                for moment in part for name, value in moment_metrics(moment, result).items()
            ])  # fmt: skip
            self._moment = moment_metrics(part[-1], result)

    def _write_notes(self, trials: Sequence[TrialResult]) -> None:
        """Bring the notes up to date, which say whether a trial is on the front."""
        for trial in trials:
            note = clipped(note_of(trial, self._search))
            if trial.number in self._runs and self._notes.get(trial.number) != note:
                self._opened.set_tag(self._runs[trial.number], _NOTE, note)
                self._notes[trial.number] = note

    def _attach(
        self, result: SearchResult, trials: Sequence[TrialResult], report: Path | None, picture: Path | None
    ) -> None:
        from search.plots import pareto_figure
        from search.story_charts import story_page

        self._opened.log_text(self._parent, json.dumps(result.to_json(), indent=2), "result.json")
        self._opened.log_text(self._parent, trials_csv(trials), "trials.csv")
        self._opened.log_text(self._parent, trials_table(trials), TABLE)
        self._opened.log_text(self._parent, pareto_figure(result, trials).to_html(), "front.html")
        self._opened.log_text(self._parent, story_page(result, trials), "story.html")
        for path in (report, picture):
            if path is not None:
                self._opened.log_artifact(self._parent, str(path))

    def _log_models(self, result: SearchResult, example: Path | None) -> list[ParetuneError]:
        """Log the bundles of the front and of the best; return why those failed that did: each stands for itself."""
        failures: list[ParetuneError] = []
        self._models = {}
        for trial in distinct([*result.front, *([result.best] if result.best else [])]):
            run_id = self._runs.get(trial.number)
            if trial.bundle is None or run_id is None:
                continue
            try:
                with mlflow_fails_as(f"log the model of trial {trial.number}"):
                    model_id = log_bundle(self._opened, self._experiment, run_id, trial, result, example)
                    self._models[trial.number] = model_id
            except ParetuneError as error:
                if not store_answers(self._home):
                    raise
                failures.append(error)
        for model in models_of(self._opened, self._experiment, f"tags.`paretune.search` = '{self._search}'"):
            if model.model_id not in self._models.values():
                self._opened.set_logged_model_tags(
                    model.model_id, {"paretune.pareto": "false", "paretune.best": "false"}
                )
        return failures


def _age(run: Any) -> tuple[int, str]:
    return run.info.start_time, run.info.run_id


def _as_one(failures: Sequence[ParetuneError]) -> ParetuneError:
    """Return one error for several: of MLflow if one of them is, since those may go away."""
    kind = next((type(each) for each in failures if isinstance(each, InfrastructureError)), IntegrityError)
    return kind("; ".join(str(each) for each in failures))


def _flat(spec: SearchSpec) -> dict[str, str]:
    """The spec as parameters; what was not asked for is left out."""
    fields = spec.model_dump(mode="json", exclude_none=True)
    return {
        name: json.dumps(value) if isinstance(value, list) else str(value) for name, value in fields.items() if value
    }
