"""Trials of the ledger: queued, claimed under a lease, finished once, taken back when their worker is lost."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, CompoundSelect, Connection, RowMapping, Select, and_, func, insert, select, update

from evaluators.candidate import Candidate
from evaluators.errors import UsageError
from evaluators.outcome import Failure, FailureKind, Outcome
from workers.database import Database, batched, lasting
from workers.records import AttemptRecord, EndedHow, TrialRecord, TrialSource, trial_record
from workers.tables import attempts, outbox, searches, trial_settings, trials, workers

MAX_LOSSES = 8
"""So often may the process that ran a trial be lost before the trial ends as lost."""

MAX_LOST_WORKERS = 2
"""A trial that so many different workers were lost with has crashed them, as far as anybody can tell."""

_UNOWNED: dict[str, Any] = {"owner": None, "lease_until": None}


class Trials:
    """The trials of all searches, and the compare-and-set steps between their states.

    ``QUEUED`` —claim→ ``RUNNING`` —finish→ ``DONE``; a lost or released attempt goes back to ``QUEUED`` under the
    next attempt number, and so does a finished trial that is to be measured again.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    @lasting
    def trials(self, search_id: str, numbers: Collection[int] | None = None) -> tuple[TrialRecord, ...]:
        """Return the trials of one search by number; only those with these ``numbers``, where some are named."""
        every = select(trials).where(trials.c.search_id == search_id).order_by(trials.c.number)
        named = batched(sorted(numbers)) if numbers is not None else ()
        wanted = [every] if numbers is None else [every.where(trials.c.number.in_(some)) for some in named]
        with self._database.reading() as connection:
            rows = [row for each in wanted for row in connection.execute(each).mappings()]
        return tuple(trial_record(row) for row in rows)

    @lasting
    def trial(self, trial_id: str) -> TrialRecord:
        """Return one trial.

        Raises:
            UsageError: there is none with this id.
        """
        with self._database.reading() as connection:
            return trial_record(_row(connection, trial_id))

    @lasting
    def queued(
        self, target: str, search_id: str | None = None, *, only: str | None = None, most: int | None = None
    ) -> tuple[TrialRecord, ...]:
        """Return the trials of running searches that wait for ``target``, the one that has waited longest first.

        Only searches that have told how their trials are run are looked at; the others run them themselves. Reading
        does not take a trial: ``claim`` does, and may find that somebody else was quicker.

        Args:
            only: the id of the one trial that is asked for.
            most: no more than so many are returned.
        """
        running = and_(searches.c.status == "running", searches.c.cancel_requested.is_(False))
        told = trial_settings.c.search_id == trials.c.search_id
        mine = and_(trials.c.state == "QUEUED", trials.c.target == target)
        waiting = select(trials).join(searches).join(trial_settings, told).where(mine, running)
        if search_id is not None:
            waiting = waiting.where(trials.c.search_id == search_id)
        if only is not None:
            waiting = waiting.where(trials.c.id == only)
        with self._database.reading() as connection:
            rows = connection.execute(waiting.order_by(trials.c.created_at, trials.c.number).limit(most)).mappings()
            return tuple(trial_record(row) for row in rows)

    @lasting
    def running(self) -> tuple[TrialRecord, ...]:
        """Return the trials of all searches that run."""
        with self._database.reading() as connection:
            rows = connection.execute(select(trials).where(trials.c.state == "RUNNING")).mappings()
            return tuple(trial_record(row) for row in rows)

    @lasting
    def progress(self, search_id: str, *, done_up_to: int | None = None) -> tuple[tuple[int, int, str], ...]:
        """Return number, attempt and state of a search's trials: cheap to read, and it changes whenever one does.

        With ``done_up_to`` those that have ended are left out up to that number: what is left does not grow with the
        search.
        """
        columns = (trials.c.number, trials.c.attempt, trials.c.state)
        every = select(*columns).where(trials.c.search_id == search_id)
        if done_up_to is None:
            wanted: Select[Any] | CompoundSelect[Any] = every.order_by(trials.c.number)
        else:
            unfinished = every.where(trials.c.state.in_(("QUEUED", "RUNNING")))
            wanted = unfinished.union(every.where(trials.c.number > done_up_to)).order_by("number")
        with self._database.reading() as connection:
            return tuple((row[0], row[1], row[2]) for row in connection.execute(wanted))

    @lasting
    def attempts(self, trial_id: str) -> tuple[AttemptRecord, ...]:
        """Return every try at running a trial, the first one first."""
        wanted = select(attempts).where(attempts.c.trial_id == trial_id).order_by(attempts.c.attempt)
        with self._database.reading() as connection:
            return tuple(AttemptRecord.model_validate(dict(row)) for row in connection.execute(wanted).mappings())

    @lasting
    def find_evaluation(self, evaluation_key: str) -> TrialRecord | None:
        """Return the latest trial of any search that was really run under this key and did not fail."""
        known = select(trials).where(
            trials.c.evaluation_key == evaluation_key,
            trials.c.state == "DONE",
            trials.c.answered_by.is_(None),
            trials.c.outcome_kind != "failed",
        )
        with self._database.reading() as connection:
            row = connection.execute(known.order_by(trials.c.finished_at.desc()).limit(1)).mappings().first()
        return None if row is None else trial_record(row)

    @lasting
    def add_trial(
        self, search_id: str, candidate: Candidate, source: TrialSource, evaluation_key: str, *, gates: bool = True
    ) -> TrialRecord:
        """Queue a candidate under the next number of its search; a candidate that is known there is returned as it is.

        Raises:
            UsageError: there is no such search.
        """
        with self._database.writing() as connection:
            # The row lock makes the next number ours on databases where writers run side by side.
            locked = select(searches.c.id).where(searches.c.id == search_id).with_for_update()
            if connection.scalar(locked) is None:
                raise UsageError(f"there is no search {search_id!r}")
            mine = trials.c.search_id == search_id
            same = select(trials.c.id).where(mine, trials.c.candidate_hash == candidate.hash)
            trial_id = connection.scalar(same)
            if trial_id is None:
                last = connection.scalar(select(func.max(trials.c.number)).where(mine))
                number = 0 if last is None else last + 1
                trial_id = f"{search_id}/{number}"
                values = {
                    "id": trial_id,
                    "search_id": search_id,
                    "number": number,
                    "candidate": candidate.canonical,
                    "target": candidate.target,
                    "candidate_hash": candidate.hash,
                    "evaluation_key": evaluation_key,
                    "source": source,
                    "state": "QUEUED",
                    "attempt": 1,
                    "gates": gates,
                    "created_at": self._clock(),
                }
                connection.execute(insert(trials).values(values))
            return trial_record(_row(connection, trial_id))

    @lasting
    def answer_trial(self, trial_id: str, attempt: int, outcome: Outcome, answered_by: str) -> bool:
        """End a queued trial at once with what an earlier trial found; False if it is no longer queued."""
        queued = _at(trial_id, attempt, "QUEUED")
        with self._database.writing() as connection:
            if not _change(connection, queued, _done(outcome, self._clock()) | {"answered_by": answered_by}):
                return False
            _post_trial(connection, trial_id, self._clock())
        return True

    @lasting
    def claim(self, trial_id: str, attempt: int, owner: str, lease_seconds: float) -> bool:
        """Take a queued attempt for ``owner``; False if it was claimed, superseded or finished by someone else."""
        now = self._clock()
        with self._database.writing() as connection:
            running = {"state": "RUNNING", "owner": owner, "lease_until": now + lease_seconds}
            if not _change(connection, _at(trial_id, attempt, "QUEUED"), running):
                # The connection may have been lost after the claim was made and before that was heard of.
                mine = select(trials.c.id).where(_held(trial_id, attempt, owner))
                return self._database.in_doubt and connection.scalar(mine) is not None
            started = {"trial_id": trial_id, "attempt": attempt, "owner": owner, "started_at": now}
            connection.execute(insert(attempts).values(started))
        return True

    @lasting
    def heartbeat(self, trial_id: str, attempt: int, owner: str, lease_seconds: float) -> bool:
        """Renew the lease; False if it is no longer ours, and then the work must stop."""
        with self._database.writing() as connection:
            renewed = {"lease_until": self._clock() + lease_seconds}
            return _change(connection, _held(trial_id, attempt, owner), renewed)

    @lasting
    def finish(self, trial_id: str, attempt: int, owner: str, outcome: Outcome) -> bool:
        """Record the outcome, the end of the attempt and the news of it together; False if the lease is not ours."""
        now = self._clock()
        with self._database.writing() as connection:
            done = _done(outcome, now) | {"answered_by": None}
            if not _change(connection, _held(trial_id, attempt, owner), done):
                return self._database.in_doubt and _has_ended(connection, trial_id, attempt, owner, "finished")
            _end_attempt(connection, trial_id, attempt, "finished", now)
            _post_trial(connection, trial_id, now)
        return True

    @lasting
    def release(self, trial_id: str, attempt: int, owner: str, how: EndedHow = "released") -> bool:
        """Give a running trial back on purpose: it is queued under the next attempt, and no loss is counted."""
        with self._database.writing() as connection:
            again = _UNOWNED | {"state": "QUEUED", "attempt": attempt + 1}
            if not _change(connection, _held(trial_id, attempt, owner), again):
                return self._database.in_doubt and _has_ended(connection, trial_id, attempt, owner, how)
            _end_attempt(connection, trial_id, attempt, how, self._clock())
        return True

    @lasting
    def amend(self, trial_id: str, attempt: int, outcome: Outcome) -> bool:
        """Replace the outcome of a finished attempt by one with more evidence; False if it is not finished any more."""
        with self._database.writing() as connection:
            better = {"outcome": outcome.model_dump_json(), "outcome_kind": outcome.kind}
            if not _change(connection, _at(trial_id, attempt, "DONE"), better):
                return False
            _post_trial(connection, trial_id, self._clock())
        return True

    @lasting
    def rerun(self, trial_id: str, *, gates: bool = False) -> TrialRecord:
        """Queue a finished trial once more; its outcome stays until a new one replaces it.

        Raises:
            UsageError: the trial does not exist, or is not finished.
        """
        with self._database.writing() as connection:
            row = _row(connection, trial_id)
            again = {"state": "QUEUED", "attempt": row["attempt"] + 1, "gates": gates}
            if self._database.in_doubt and row["state"] == "QUEUED" and row["outcome"] is not None:
                return trial_record(row)
            if not _change(connection, _at(trial_id, row["attempt"], "DONE"), again):
                raise UsageError(f"trial {trial_id} is {row['state']}; only a finished trial can be run again")
            return trial_record(_row(connection, trial_id))

    @lasting
    def withdraw(self, trial_id: str) -> bool:
        """Take a rerun back, so that the trial is finished with its earlier outcome; False if there is none.

        Whoever runs it loses the lease, and stops.
        """
        with self._database.writing() as connection:
            row = _row(connection, trial_id)
            again = and_(_at(trial_id, row["attempt"], row["state"]), trials.c.outcome.is_not(None))
            if row["state"] == "DONE" or not _change(connection, again, _UNOWNED | {"state": "DONE"}):
                return False
            if row["state"] == "RUNNING":
                _end_attempt(connection, trial_id, row["attempt"], "released", self._clock())
            return True

    @lasting
    def requeue_lost(
        self, search_id: str, is_alive: Callable[[str], bool], *, max_losses: int = MAX_LOSSES,
        max_lost_workers: int = MAX_LOST_WORKERS,
    ) -> tuple[TrialRecord, ...]:  # fmt: skip
        """Take back the running trials whose lease has expired or whose owner is dead, and return them.

        Each is queued under its next attempt. After ``max_losses`` losses it ends as failed (lost), and after losses
        of ``max_lost_workers`` different workers as failed (crashed); or with the outcome that it had before a rerun.
        """
        now = self._clock()
        running = select(trials).where(trials.c.search_id == search_id, trials.c.state == "RUNNING")
        with self._database.reading() as connection:
            rows = connection.execute(running.order_by(trials.c.number)).mappings().all()
        lost = [row for row in rows if row["lease_until"] <= now or not is_alive(row["owner"])]
        if not lost:
            return ()
        with self._database.writing() as connection:
            took = [row for row in lost if _take_back(connection, row, max_losses, max_lost_workers, now)]
            return tuple(trial_record(_row(connection, row["id"])) for row in took)


def _take_back(connection: Connection, row: RowMapping, max_losses: int, max_lost_workers: int, now: float) -> bool:
    """Take a running trial from its owner, unless that one has renewed its lease meanwhile."""
    unrenewed = trials.c.lease_until == row["lease_until"]
    mine = and_(_held(row["id"], row["attempt"], row["owner"]), unrenewed)
    lost_here = and_(attempts.c.trial_id == row["id"], attempts.c.ended_how == "lost")
    owners = [*connection.scalars(select(attempts.c.owner).where(lost_here)), row["owner"]]
    registered = set(connection.scalars(select(workers.c.id).where(workers.c.id.in_(owners))))
    failure = _fatal_loss(owners, registered, max_losses, max_lost_workers)
    if not _change(connection, mine, _after_loss(row, failure, now)):
        return False
    _end_attempt(connection, row["id"], row["attempt"], "lost", now)
    if failure is not None:
        _post_trial(connection, row["id"], now)
    return True


def _fatal_loss(
    owners: Sequence[str], registered: Collection[str], max_losses: int, max_lost_workers: int
) -> Failure | None:
    """Return how a trial ends whose ``owners`` were lost, some of them ``registered`` workers; None to try again."""
    if len(registered) >= max_lost_workers:
        reason = f"{len(registered)} workers were lost while they ran it: {', '.join(sorted(registered))}"
        return Failure(kind=FailureKind.CRASHED, stage="worker", reason=reason)
    if len(owners) < max_losses:
        return None
    reason = f"its worker was lost {len(owners)} times before it answered, the last one was {owners[-1]}"
    return Failure(kind=FailureKind.LOST, stage="worker", reason=reason)


def post(connection: Connection, search_id: str, trial_number: int | None, now: float) -> None:
    """Put news into the outbox, in the transaction of the change that it tells of."""
    kind = "search" if trial_number is None else "trial"
    values = {"search_id": search_id, "trial_number": trial_number, "kind": kind, "created_at": now}
    connection.execute(insert(outbox).values(values))


def _post_trial(connection: Connection, trial_id: str, now: float) -> None:
    row = _row(connection, trial_id)
    post(connection, row["search_id"], row["number"], now)


def _row(connection: Connection, trial_id: str) -> RowMapping:
    row = connection.execute(select(trials).where(trials.c.id == trial_id)).mappings().first()
    if row is None:
        raise UsageError(f"there is no trial {trial_id!r}; trials are named as in a1b2c3d4/7, search id and number")
    return row


def _at(trial_id: str, attempt: int, state: str) -> ColumnElement[bool]:
    return and_(trials.c.id == trial_id, trials.c.attempt == attempt, trials.c.state == state)


def _held(trial_id: str, attempt: int, owner: str) -> ColumnElement[bool]:
    return and_(_at(trial_id, attempt, "RUNNING"), trials.c.owner == owner)


def _change(connection: Connection, expected: ColumnElement[bool], values: dict[str, Any]) -> bool:
    return connection.execute(update(trials).where(expected).values(values)).rowcount == 1


def _end_attempt(connection: Connection, trial_id: str, attempt: int, how: EndedHow, now: float) -> None:
    this = and_(attempts.c.trial_id == trial_id, attempts.c.attempt == attempt)
    connection.execute(update(attempts).where(this).values(ended_at=now, ended_how=how))


def _done(outcome: Outcome, now: float) -> dict[str, Any]:
    text = outcome.model_dump_json()
    return _UNOWNED | {"state": "DONE", "outcome": text, "outcome_kind": outcome.kind, "finished_at": now}


def _has_ended(connection: Connection, trial_id: str, attempt: int, owner: str, how: EndedHow) -> bool:
    this = and_(attempts.c.trial_id == trial_id, attempts.c.attempt == attempt)
    ended = select(attempts.c.trial_id).where(this, attempts.c.owner == owner, attempts.c.ended_how == how)
    return connection.scalar(ended) is not None


def _after_loss(row: RowMapping, failure: Failure | None, now: float) -> dict[str, Any]:
    if failure is None:
        return _UNOWNED | {"state": "QUEUED", "attempt": row["attempt"] + 1}
    if row["outcome"] is not None:
        return _UNOWNED | {"state": "DONE"}
    reproduce = f"paretune reproduce {row['search_id']} {row['number']}"
    return _done(Outcome(kind="failed", failure=failure, reproduce=reproduce), now)
