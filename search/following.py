"""Following: shows a search that others run, as its ledger tells it, until it is over or nobody wants to look on."""

from __future__ import annotations

from pathlib import Path

from search.fleet import Fleet
from search.front import best_trial, pareto_front
from search.progress import Progress
from search.result import TrialResult
from search.spec import SearchSpec
from search.view import count_trials, trial_results
from workers.lease import Cancellation, owner_is_alive, wait_for
from workers.ledger import Ledger
from workers.records import SearchRecord

LOOK_SECONDS = 0.5
"""How often the ledger is looked at."""

ALONE_LOOKS = 20
"""After so many looks at a search that nobody coordinates it is said how to start a coordinator."""


class Follower:
    """Tells ``progress`` what happens to a search that a fleet runs."""

    def __init__(self, ledger: Ledger, home: Path, record: SearchRecord, progress: Progress) -> None:
        self._ledger, self._home, self._record, self._progress = ledger, home, record, progress
        self._spec = SearchSpec.model_validate(record.spec)
        self._fleet = Fleet(ledger, home, self._spec.targets, {})
        self._seen: set[tuple[int, int, str]] = set()
        self._alone = 0

    def follow(self, stop: Cancellation) -> SearchRecord:
        """Return the search as it is when it is over, or when ``stop`` is set."""
        while True:
            record = self._ledger.search(self._record.id)
            self._tell()
            if record.status != "running" or wait_for((stop,), LOOK_SECONDS):
                return record
            self._tell_whom_it_waits_for()

    def _tell(self) -> None:
        news = [step for step in self._ledger.progress(self._record.id) if step not in self._seen]
        if not news:
            return
        trials = {trial.number: trial for trial in trial_results(self._ledger.trials(self._record.id), self._spec)}
        for step in news:
            self._seen.add(step)
            number, _, state = step
            if state == "RUNNING":
                label = f"{trials[number].candidate.label()} on {trials[number].candidate.target}"
                self._progress.started(number, label)
            elif state == "DONE" and trials[number].outcome not in ("queued", "running"):
                self._progress.finished(trials[number], count_trials(list(trials.values())), self._best(trials))

    def _best(self, trials: dict[int, TrialResult]) -> TrialResult | None:
        return best_trial(pareto_front(list(trials.values()), self._spec.goal, self._spec.percentile))

    def _tell_whom_it_waits_for(self) -> None:
        present = self._fleet.present()
        self._fleet.report([target for target in self._spec.targets if target not in present], self._progress.note)
        share = self._ledger.coordinated(self._record.id)
        alone = share is None or share.owner is None or not owner_is_alive(share.owner)
        self._alone = self._alone + 1 if alone else 0
        if self._alone == ALONE_LOOKS:
            self._progress.note(f"waiting for a coordinator; start one: paretune coordinator --home {self._home}")
