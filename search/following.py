"""Following: shows a search that others run, as its ledger tells it, until it is over or nobody wants to look on."""

from __future__ import annotations

from pathlib import Path

from search.fleet import Fleet
from search.known_trials import KnownTrials
from search.progress import Progress
from search.spec import SearchSpec
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
        self._known = KnownTrials(ledger, record.id, self._spec)
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
        standing = self._known.standing
        for record in self._known.look():
            if record.state == "RUNNING":
                self._progress.started(record.number, f"{record.candidate.label()} on {record.candidate.target}")
            elif record.state == "DONE":
                self._progress.finished(standing.trial(record.number), standing.counts, standing.best)

    def _tell_whom_it_waits_for(self) -> None:
        present = self._fleet.present()
        self._fleet.report([target for target in self._spec.targets if target not in present], self._progress.note)
        share = self._ledger.coordinated(self._record.id)
        alone = share is None or share.owner is None or not owner_is_alive(share.owner)
        self._alone = self._alone + 1 if alone else 0
        if self._alone == ALONE_LOOKS:
            self._progress.note(f"waiting for a coordinator; start one: paretune coordinator --home {self._home}")
