"""Projection: MLflow, report and pictures kept up with the ledger. None of them can stop a search."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from evaluators.errors import ParetuneError
from evaluators.profile import WorkloadProfile
from evaluators.stages.reference import example_file
from evaluators.target import Target
from search.result import SearchResult, TrialResult
from search.spec import SearchSpec
from search.view import search_result
from workers.ledger import Ledger
from workers.records import SearchRecord

if TYPE_CHECKING:
    from search.tracking import Tracking


class Projection:
    """Delivers the ledger's outbox to MLflow after each trial, and everything else at the end.

    MLflow loads while the workload is read. Where it fails, a note says so and the news stay in the outbox: the next
    session delivers them.
    """

    def __init__(self, home: Path, note: Callable[[str], None]) -> None:
        self._home = home
        self._note = note
        self._tracking: Tracking | None = None
        self._loader = threading.Thread(target=self._load, name="paretune-mlflow", daemon=True)
        self._front: set[int] = set()
        self._started = False
        self._standing: Callable[[Sequence[TrialResult]], SearchResult] | None = None
        self.report: str | None = None

    def __enter__(self) -> Self:
        """Begin to load MLflow, without waiting for it."""
        self._loader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loader.join()

    def start(
        self, record: SearchRecord, spec: SearchSpec, profile: WorkloadProfile, targets: Sequence[Target]
    ) -> None:
        """Open the search's parent run, and find the runs that earlier sessions made."""
        self._loader.join()
        names = [target.name for target in targets]
        self._standing = lambda trials: search_result(record, spec, trials, names, self._home)

        def begin(tracking: Tracking) -> None:
            tracking.start_search(record.id, record.name, spec, profile, targets)
            self._started = True

        self._attempt("MLflow could not be reached; the search goes on and what happened is delivered later", begin)

    def deliver(self, ledger: Ledger, search_id: str, trials: Sequence[TrialResult]) -> None:
        """Log the trials that the outbox announces, move the front's tags, and show how the search stands."""

        if not self._started:
            return

        def log(tracking: Tracking) -> None:
            news = ledger.pending(search_id)
            wanted = {item.trial_number for item in news if item.trial_number is not None}
            by_number = {trial.number: trial for trial in trials}
            front = {trial.number for trial in trials if trial.pareto}
            view_ids: dict[str, str] = {}
            for number in sorted(wanted):
                view_ids[f"{search_id}/{number}"] = tracking.log_trial(by_number[number])
            tracking.update_pareto(self._front, front)
            self._front = front
            ledger.delivered([item.id for item in news], view_ids)
            if self._standing is not None:
                tracking.show_progress(self._standing(trials), trials)

        self._attempt("trials could not be logged to MLflow; they are delivered later", log)

    def finish(
        self, result: SearchResult, trials: Sequence[TrialResult], profile: WorkloadProfile | None,
        targets: Sequence[Target],
    ) -> None:  # fmt: skip
        """Write the report and its picture, and complete the parent run with plots and the models of the front."""
        from search.pictures import pareto_png
        from search.report import write_report

        folder = self._home / "reports" / result.search
        folder.mkdir(parents=True, exist_ok=True)
        report, picture = folder / "report.html", folder / "front.png"
        write_report(result, trials, profile, targets, report)
        pareto_png(result, trials, picture)
        self.report = str(report)
        if profile is None or not self._started:
            return
        example = example_file(self._home, profile.fingerprint)

        def complete(tracking: Tracking) -> None:
            tracking.finish_search(result, trials, profile, report, picture, example if example.exists() else None)

        self._attempt("the result could not be logged to MLflow", complete)

    def _load(self) -> None:
        try:
            from search.tracking import Tracking

            self._tracking = Tracking(self._home)
            self._tracking.open()
        except (ParetuneError, ImportError) as error:
            self._tracking = None
            self._note(f"MLflow cannot be used: {error}")

    def _attempt(self, otherwise: str, act: Callable[[Tracking], None]) -> None:
        if self._tracking is None:
            return
        try:
            act(self._tracking)
        except ParetuneError as error:
            self._note(f"{otherwise}: {error}")
