"""Comparisons of the ledger: bundles that a worker of their target is asked to time in turn, under a lease."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import ColumnElement, and_, func, insert, or_, select, update

from evaluators.errors import UsageError
from evaluators.jobs import Comparison
from evaluators.outcome import Failure
from workers.database import Database, lasting
from workers.records import ComparisonRecord, comparison_record
from workers.tables import comparisons, searches

MAX_CLAIMS = 3
"""A comparison that so many claims did not bring to an end is not tried again."""

_MARK = "/compare-"

_GONE: dict[str, Any] = {"state": "DONE", "owner": None, "lease_until": None}


def names_comparison(identifier: str) -> bool:
    """Whether what was rung for is a comparison, not a trial."""
    return _MARK in identifier


class Comparisons:
    """What was asked to be timed in turn. ``QUEUED`` —claim→ ``RUNNING`` —finish→ ``DONE``.

    Unlike a trial it needs nobody who reaps it: one whose lease ran out may be claimed as it is.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    @lasting
    def ask_comparison(self, search_id: str, target: str, bundles: Sequence[str], seconds: float) -> ComparisonRecord:
        """Ask for bundles to be timed in turn; what was asked before and is the same and unfinished is that one.

        Whatever else was asked for the search before, and is not done, is taken back.

        Raises:
            UsageError: there is no such search.
        """
        with self._database.writing() as connection:
            locked = select(searches.c.id).where(searches.c.id == search_id).with_for_update()
            if connection.scalar(locked) is None:
                raise UsageError(f"there is no search {search_id!r}")
            wanted = json.dumps(list(bundles))
            same = and_(comparisons.c.search_id == search_id, comparisons.c.target == target,
                        comparisons.c.bundles == wanted, comparisons.c.state != "DONE")  # fmt: skip
            found = connection.scalar(select(comparisons.c.id).where(same).limit(1))
            if found is None:
                other = and_(comparisons.c.search_id == search_id, comparisons.c.state != "DONE")
                connection.execute(update(comparisons).where(other).values(_GONE))
                count = select(func.count()).where(comparisons.c.search_id == search_id)
                found = f"{search_id}{_MARK}{connection.scalar(count)}"
                values = {
                    "id": found, "search_id": search_id, "target": target, "bundles": wanted, "seconds": seconds,
                    "state": "QUEUED", "attempt": 0, "created_at": self._clock(),
                }  # fmt: skip
                connection.execute(insert(comparisons).values(values))
            row = connection.execute(select(comparisons).where(comparisons.c.id == found)).mappings().one()
            return comparison_record(row)

    @lasting
    def comparison(self, comparison_id: str) -> ComparisonRecord:
        """Return one comparison.

        Raises:
            UsageError: there is none with this id.
        """
        with self._database.reading() as connection:
            wanted = select(comparisons).where(comparisons.c.id == comparison_id)
            row = connection.execute(wanted).mappings().first()
        if row is None:
            raise UsageError(f"there is no comparison {comparison_id!r}")
        return comparison_record(row)

    @lasting
    def waiting_comparisons(self, target: str, search_id: str | None = None) -> tuple[ComparisonRecord, ...]:
        """Return what may be claimed for ``target``, the one that has waited longest first."""
        running = and_(searches.c.status == "running", searches.c.cancel_requested.is_(False))
        waiting = select(comparisons).join(searches).where(comparisons.c.target == target, running, self._free())
        if search_id is not None:
            waiting = waiting.where(comparisons.c.search_id == search_id)
        with self._database.reading() as connection:
            rows = connection.execute(waiting.order_by(comparisons.c.created_at)).mappings()
            return tuple(comparison_record(row) for row in rows)

    @lasting
    def claim_comparison(self, comparison_id: str, owner: str, lease_seconds: float) -> int | None:
        """Take a comparison that nobody has; return the attempt that it is, None if somebody was quicker."""
        now = self._clock()
        free = self._free()
        if self._database.in_doubt:
            free = or_(free, comparisons.c.owner == owner)
        taken = {"state": "RUNNING", "owner": owner, "lease_until": now + lease_seconds,
                 "attempt": comparisons.c.attempt + 1}  # fmt: skip
        with self._database.writing() as connection:
            change = update(comparisons).where(comparisons.c.id == comparison_id, free)
            if connection.execute(change.values(taken)).rowcount != 1:
                return None
            wanted = select(comparisons.c.attempt).where(comparisons.c.id == comparison_id)
            return int(connection.scalar(wanted) or 0)

    @lasting
    def keep_comparison(self, comparison_id: str, attempt: int, lease_seconds: float) -> bool:
        """Renew the lease; False if it is no longer ours, and then the work must stop."""
        return self._change(comparison_id, attempt, {"lease_until": self._clock() + lease_seconds})

    @lasting
    def finish_comparison(self, comparison_id: str, attempt: int, answer: Comparison | Failure) -> bool:
        """Record what was found; False if the lease is not ours."""
        return self._change(comparison_id, attempt, _GONE | {"answer": answer.model_dump_json()})

    @lasting
    def release_comparison(self, comparison_id: str, attempt: int) -> bool:
        """Give it back on purpose: it waits again, and no claim is counted."""
        again = {"state": "QUEUED", "owner": None, "lease_until": None, "attempt": attempt - 1}
        return self._change(comparison_id, attempt, again)

    @lasting
    def withdraw_comparison(self, comparison_id: str) -> bool:
        """Take back what was asked, whoever is at it; False if it is done."""
        with self._database.writing() as connection:
            mine = and_(comparisons.c.id == comparison_id, comparisons.c.state != "DONE")
            return connection.execute(update(comparisons).where(mine).values(_GONE)).rowcount == 1

    def _free(self) -> ColumnElement[bool]:
        lost = and_(comparisons.c.state == "RUNNING", comparisons.c.lease_until <= self._clock())
        return and_(or_(comparisons.c.state == "QUEUED", lost), comparisons.c.attempt < MAX_CLAIMS)

    def _change(self, comparison_id: str, attempt: int, values: dict[str, Any]) -> bool:
        held = and_(comparisons.c.id == comparison_id, comparisons.c.attempt == attempt,
                    comparisons.c.state == "RUNNING")  # fmt: skip
        with self._database.writing() as connection:
            return connection.execute(update(comparisons).where(held).values(values)).rowcount == 1
