"""Projection: MLflow, report and pictures kept up with the ledger. None of them can stop a search, or hold it up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from evaluators.errors import IntegrityError, ParetuneError
from evaluators.profile import WorkloadProfile
from evaluators.stages.reference import example_file
from evaluators.target import Target
from search.mlflow_store import store_answers
from search.outage import Outage
from search.pacing import Pace
from search.result import SearchResult, TrialResult
from search.spec import SearchSpec
from search.view import search_result
from workers.ledger import Ledger
from workers.records import OutboxRecord, SearchRecord

if TYPE_CHECKING:
    from search.tracking import Tracking

SHOW_SECONDS, SHOW_SHARE = 2.0, 0.02
SLICE_SECONDS = 3.0
"""How long a search waits after a trial while what MLflow missed is delivered; the rest follows after the next one."""


class Projection:
    """Delivers the ledger's outbox to MLflow after each trial, and everything else at the end.

    MLflow loads while the workload is read. Where it fails, a note says so, the news stay in the outbox, and it is
    left alone until it answers. Then it is first looked up what had arrived, so that nothing is logged twice. What is
    missing at the end of the session is delivered by the next one, or by a coordinator of the fleet.
    """

    def __init__(self, home: Path, note: Callable[[str], None]) -> None:
        self._home = home
        self._note = note
        self._tracking: Tracking | None = None
        self._loader = threading.Thread(target=self._load, name="paretune-mlflow", daemon=True)
        self._outage = Outage(lambda: store_answers(home))
        self._start: Callable[[Tracking], object] | None = None
        self._started = False
        self._front: set[int] = set()
        self._standing: Callable[[Sequence[TrialResult]], SearchResult] | None = None
        self._showing = Pace(every_s=SHOW_SECONDS, share=SHOW_SHARE)
        self.report: str | None = None

    def __enter__(self) -> Self:
        """Begin to load MLflow, without waiting for it."""
        self._loader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._outage.close()
        self._loader.join()

    def start(
        self, record: SearchRecord, spec: SearchSpec, profile: WorkloadProfile, targets: Sequence[Target]
    ) -> None:
        """Open the search's parent run, and find the runs that earlier sessions made."""
        self._loader.join()
        names = [target.name for target in targets]
        self._standing = lambda trials: search_result(record, spec, trials, names, self._home)
        self._start = lambda tracking: tracking.start_search(record.id, record.name, spec, profile, targets)
        self._attempt(lambda _: None)

    def ask_again(self) -> None:
        """Find out now, not only after the next pause, whether MLflow can be reached again: the session ends."""
        self._outage.ask_now()

    def deliver(
        self, ledger: Ledger, search_id: str, trials: Sequence[TrialResult], seconds: float = SLICE_SECONDS
    ) -> bool:
        """Log the trials that the outbox announces, move the front's tags, and return whether nothing is left.

        Trials that are left after so many ``seconds`` are logged another time. Now and then the search's own run is
        brought up with them.
        """
        return self._attempt(lambda tracking: self._log(tracking, ledger, search_id, trials, seconds))

    def finish(
        self, result: SearchResult, trials: Sequence[TrialResult], profile: WorkloadProfile | None,
        targets: Sequence[Target],
    ) -> bool:  # fmt: skip
        """Write the report and its picture, and complete the parent run with plots and the models of the front.

        Returns whether MLflow has all of it.
        """
        from search.pictures import pareto_png
        from search.report import write_report

        folder = self._home / "reports" / result.search
        folder.mkdir(parents=True, exist_ok=True)
        report, picture = folder / "report.html", folder / "front.png"
        write_report(result, trials, profile, targets, report)
        pareto_png(result, trials, picture)
        self.report = str(report)
        if profile is None:
            return False
        example = example_file(self._home, profile.fingerprint)
        if self._outage.happened:
            self._started = False

        def complete(tracking: Tracking) -> None:
            try:
                tracking.finish_search(result, trials, profile, report, picture, example if example.exists() else None)
            except IntegrityError as error:
                self._note(f"not every model of the front was logged to MLflow: {error}")

        return self._attempt(complete)

    def _log(
        self, tracking: Tracking, ledger: Ledger, search_id: str, trials: Sequence[TrialResult], seconds: float
    ) -> bool:
        news = [item for item in ledger.pending(search_id) if item.trial_number is not None]
        by_number, until = {trial.number: trial for trial in trials}, time.monotonic() + seconds
        view_ids: dict[int, str] = {}
        wanted = sorted({item.trial_number for item in news if item.trial_number is not None})
        for number in wanted:
            if view_ids and time.monotonic() >= until:
                break
            view_ids[number] = tracking.log_trial(by_number[number])
        front = {trial.number for trial in trials if trial.pareto}
        tracking.update_pareto(self._front, front)
        self._front = front
        ledger.delivered([item.id for item in news if item.trial_number in view_ids],
                         {f"{search_id}/{number}": run for number, run in view_ids.items()})  # fmt: skip
        self._show(tracking, trials)
        return len(view_ids) == len(wanted)

    def _show(self, tracking: Tracking, trials: Sequence[TrialResult]) -> None:
        """Show how the search stands, for a small share of its time: what it takes grows with the trials."""
        begun = time.monotonic()
        if self._standing is None or not self._showing.due(begun):
            return
        tracking.show_progress(self._standing(trials), trials)
        self._showing.took(begun, time.monotonic() - begun)

    def _load(self) -> None:
        try:
            from search.tracking import Tracking

            tracking = Tracking(self._home)
            tracking.open()
            self._tracking = tracking
        except (ParetuneError, ImportError) as error:
            self._note(f"MLflow cannot be used: {error}")

    def _attempt(self, act: Callable[[Tracking], bool | None]) -> bool:
        """Do something with MLflow, unless it is known to be away, and return whether it worked."""
        if self._tracking is None or self._start is None or self._outage.lasts:
            return False
        try:
            if not self._started:
                self._start(self._tracking)
                self._started = True
            done = act(self._tracking)
        except ParetuneError as error:
            self._started = False
            self._outage.begin()
            self._note(f"MLflow cannot be reached; the search goes on, and what happens is delivered later: {error}")
            return False
        if self._outage.end():
            self._note("MLflow can be reached again")
        return done is not False


def ended_news(ledger: Ledger, search_id: str) -> list[OutboxRecord]:
    """Return the news of a search as a whole that MLflow has not been told."""
    return [item for item in ledger.pending(search_id) if item.trial_number is None]
