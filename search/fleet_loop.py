"""FleetLoop: the trials of a search whose targets are on several machines; workers run them, through the ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping

from structlog.contextvars import bound_contextvars

from search.fleet import Fleet
from search.trial_loop import Session, TrialLoop
from workers.doorbell import AGAIN_SECONDS, Bell, Doorbell
from workers.lease import owner_is_alive, wait_for
from workers.meter import Meter, NoMeter
from workers.records import TrialRecord

LOOK_SECONDS = 0.3
"""How often the ledger is asked what workers have done."""


_ASKING = threading.Lock()
"""Searches of one process ask one after the other, so that each sees what the one before has queued."""


class FleetLoop(TrialLoop):
    """Keeps every worker busy: on each target one more trial is unfinished than workers are there, of all searches.

    A candidate goes to the queue of its target, whichever the sampler chose; nothing is proposed for a target that
    nobody serves at the moment, or where it is another search's turn. Trials that wait for a target without a worker
    are waited for, and that is said.

    Args:
        bell: carries the ids of queued trials to workers; without one, workers look into the ledger by themselves.
        ring_again_s: after so long a trial that waits beside an idle worker is rung for again.
        meter: told of trials that end, are lost or are rung for again.
    """

    def __init__(
        self, session: Session, fleet: Fleet, bell: Bell | None = None, *, ring_again_s: float = AGAIN_SECONDS,
        meter: Meter | None = None,
    ) -> None:  # fmt: skip
        super().__init__(session)
        self._fleet, self._meter = fleet, meter or NoMeter()
        self._doorbell = Doorbell(bell, fleet.idle, session.remind, again_s=ring_again_s, meter=self._meter)
        self._changes = 0
        self._nothing_more_at: int | None = None
        self._lost_looked_for_at = float("-inf")

    def run(self) -> None:
        """Have trials run until their number, the time or the space is used up."""
        session = self._session
        self._take_up()
        while not session.over:
            unfinished, present = self._catch_up(), self._fleet.present(LOOK_SECONDS)
            if self._wants_more and self._ask(present):
                continue
            if not unfinished and not self._wants_more:
                break
            absent = [target for target in session.space.targets if target not in present]
            self._wait(present, {record.candidate.target for record in unfinished} if present else absent)
        self._say_untried()

    def _take_up(self) -> None:
        """Learn from what earlier coordinators have left."""
        running = [record for record in self._known.look() if record.state == "RUNNING"]
        for trial in self._standing.trials:
            self._learn(trial)
        for record in running:
            self._take_note(record)

    @property
    def _wants_more(self) -> bool:
        """Whether there may be another trial to queue; where none could be proposed, not before another has ended."""
        return len(self._standing) < self._session.spec.trials and self._nothing_more_at != self._changes

    def _ask(self, present: Mapping[str, int]) -> bool:
        """Queue the next candidate on a target where it is this search's turn; False if there is none."""
        session = self._session
        with _ASKING:
            targets = session.ledger.turn(session.record.id, present) if present else ()
            if not targets:
                return False
            record = self._propose([target for target in session.space.targets if target not in targets])
        if record is None:
            if len(targets) == len(present):
                self._nothing_more_at = self._changes
            return False
        if not self._answer(record):
            self._doorbell.ring((record,))
        return True

    def _run(self, record: TrialRecord) -> None:
        """Wait until a worker has seen a queued trial through; when time is up, take it back."""
        session = self._session
        while any(record.number == other.number for other in self._catch_up()):
            if session.over:
                session.ledger.withdraw(record.id)
                return
            self._wait(self._fleet.present(LOOK_SECONDS), {record.candidate.target})

    def _catch_up(self) -> tuple[TrialRecord, ...]:
        """Learn from the trials that have ended since, and return those that have not."""
        session = self._session
        if time.monotonic() - self._lost_looked_for_at >= LOOK_SECONDS:
            for lost in session.ledger.requeue_lost(session.record.id, owner_is_alive):
                self._meter.lost(lost.candidate.target)
            self._lost_looked_for_at = time.monotonic()
        changed = self._known.look()
        self._changes += bool(changed)
        for record in changed:
            self._take_note(record)
        unfinished = self._known.unfinished
        self._doorbell.ring(unfinished)
        return unfinished

    def _take_note(self, record: TrialRecord) -> None:
        target = record.candidate.target
        with bound_contextvars(trial=record.number, attempt=record.attempt):
            if record.state == "RUNNING":
                self._session.progress.started(record.number, f"{record.candidate.label()} on {target}")
            elif record.state == "DONE":
                if record.outcome is not None and record.answered_by is None:
                    self._took(record.candidate, sum(record.outcome.stage_seconds.values()))
                    self._meter.ended(target, record.outcome)
                self._conclude(record.number)

    def _wait(self, present: Collection[str], wanted: Collection[str]) -> None:
        """Wait a moment, and say for which of the ``wanted`` targets nobody is there."""
        self._fleet.report([target for target in wanted if target not in present], self._session.remind)
        wait_for((self._session.stop,), LOOK_SECONDS)

    def _say_untried(self) -> None:
        """Name the targets of which nothing was measured for want of a worker."""
        self._known.look()
        tried = {trial.candidate.target for trial in self._standing.trials if trial.outcome != "queued"}
        for target in self._session.space.targets:
            if target not in tried:
                self._session.note(f"nothing was tried on {target}")
