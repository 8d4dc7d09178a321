"""FleetLoop: the trials of a search whose targets are on several machines; workers run them, through the ledger."""

from __future__ import annotations

from collections.abc import Collection

from search.fleet import Fleet
from search.trial_loop import Session, TrialLoop
from workers.lease import owner_is_alive, wait_for
from workers.records import TrialRecord

LOOK_SECONDS = 0.3
"""How often the ledger is asked what workers have done."""


class FleetLoop(TrialLoop):
    """Keeps every worker busy: as many trials are unfinished at a time as workers are there.

    A candidate goes to the queue of its target, whichever the sampler chose; nothing is proposed for a target that
    nobody serves at the moment. Trials that wait for such a target are waited for, and that is said.
    """

    def __init__(self, session: Session, fleet: Fleet) -> None:
        super().__init__(session)
        self._fleet = fleet
        self._seen: tuple[tuple[int, int, str], ...] = ()
        self._unfinished: tuple[TrialRecord, ...] = ()
        self._trials = 0
        self._known: set[tuple[int, int, str]] = set()

    def run(self) -> None:
        """Have trials run until their number, the time or the space is used up."""
        session = self._session
        self._known = {step for step in session.ledger.progress(session.record.id) if step[2] == "DONE"}
        for trial in session.trials():
            self._learn(trial)
        while not session.over:
            unfinished, present = self._catch_up(), self._fleet.present()
            served = [record for record in unfinished if record.candidate.target in present]
            absent = [target for target in session.space.targets if target not in present]
            if len(served) < sum(present.values()) and (record := self._propose(absent)) is not None:
                self._answer(record)
            elif not unfinished and (present or self._trials >= session.spec.trials):
                break
            else:
                self._wait(present, {record.candidate.target for record in unfinished} if present else absent)
        self._say_untried()

    def _run(self, record: TrialRecord) -> None:
        """Wait until a worker has seen a queued trial through; when time is up, take it back."""
        session = self._session
        while any(record.number == other.number for other in self._catch_up()):
            if session.over:
                session.ledger.withdraw(record.id)
                return
            self._wait(self._fleet.present(), {record.candidate.target})

    def _catch_up(self) -> tuple[TrialRecord, ...]:
        """Learn from the trials that have ended since, and return those that have not."""
        session = self._session
        session.ledger.requeue_lost(session.record.id, owner_is_alive)
        progress = session.ledger.progress(session.record.id)
        if progress != self._seen:
            records = {record.number: record for record in session.ledger.trials(session.record.id)}
            for step in progress:
                if step not in self._known:
                    self._known.add(step)
                    self._take_note(records[step[0]])
            self._seen, self._trials = progress, len(records)
            self._unfinished = tuple(record for record in records.values() if record.state != "DONE")
        return self._unfinished

    def _take_note(self, record: TrialRecord) -> None:
        if record.state == "RUNNING":
            self._session.progress.started(record.number, f"{record.candidate.label()} on {record.candidate.target}")
        elif record.state == "DONE":
            if record.outcome is not None and record.answered_by is None:
                self._took(record.candidate, sum(record.outcome.stage_seconds.values()))
            self._conclude(record.number)

    def _wait(self, present: Collection[str], wanted: Collection[str]) -> None:
        """Wait a moment, and say for which of the ``wanted`` targets nobody is there."""
        self._fleet.report([target for target in wanted if target not in present], self._session.remind)
        wait_for((self._session.stop,), LOOK_SECONDS)

    def _say_untried(self) -> None:
        """Name the targets of which nothing was measured for want of a worker."""
        tried = {trial.candidate.target for trial in self._session.trials() if trial.outcome != "queued"}
        for target in self._session.space.targets:
            if target not in tried:
                self._session.note(f"nothing was tried on {target}")
