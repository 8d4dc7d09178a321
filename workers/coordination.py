"""Coordination: which process has a search, which searches a fleet was asked to run, and whose turn it is to ask."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from evaluators.errors import UsageError
from workers.database import Database, lasting
from workers.records import CoordinationRecord
from workers.tables import coordination, searches, trials
from workers.turns import Wish, turns_of

WISH_SECONDS = 3.0
"""So long a wish to queue a trial is heeded by other searches; whoever still has it says it again."""

_NOBODY: dict[str, Any] = {"owner": None, "held_since": None, "lease_until": None}
_SHOWN = [coordination.c[name] for name in CoordinationRecord.model_fields]


class Coordination:
    """The searches as those who coordinate them see them: a lease on each, and its share of a fleet."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    @lasting
    def submit(
        self, search_id: str, *, weight: float = 1.0, priority: int = 0, most_unfinished: int | None = None
    ) -> None:
        """Leave a search to the coordinators of the fleet.

        Raises:
            UsageError: there is no such search, or its share is nonsense.
        """
        if not 0 < weight < float("inf") or (most_unfinished is not None and most_unfinished < 1):
            raise UsageError(f"a search cannot have weight {weight} and at most {most_unfinished} trials at a time; "
                             "both must be above zero")  # fmt: skip
        share = {"weight": weight, "priority": priority, "most_unfinished": most_unfinished}
        with self._database.writing() as connection:
            self._ensure(connection, search_id)
            change = update(coordination).where(coordination.c.search_id == search_id)
            connection.execute(change.values(share | {"submitted_at": self._clock()}))

    @lasting
    def coordinated(self, search_id: str) -> CoordinationRecord | None:
        """Return who has a search and what share it gets; None where nobody ever had it."""
        with self._database.reading() as connection:
            row = connection.execute(select(*_SHOWN).where(coordination.c.search_id == search_id)).mappings().first()
        return None if row is None else CoordinationRecord.model_validate(dict(row))

    @lasting
    def submitted(self) -> tuple[CoordinationRecord, ...]:
        """Return the running searches that were left to the fleet, the one submitted first first."""
        wanted = select(*_SHOWN).join(searches).where(
            searches.c.status == "running", coordination.c.submitted_at.is_not(None)
        )  # fmt: skip
        with self._database.reading() as connection:
            rows = connection.execute(wanted.order_by(coordination.c.submitted_at)).mappings()
            return tuple(CoordinationRecord.model_validate(dict(row)) for row in rows)

    @lasting
    def take_search(
        self, search_id: str, owner: str, lease_seconds: float, is_alive: Callable[[str], bool] = lambda owner: True
    ) -> bool:
        """Take a search that nobody has, or whose owner is dead or silent; False while somebody has it."""
        now = self._clock()
        known = self.coordinated(search_id)
        dead = None if known is None or known.owner is None or is_alive(known.owner) else known.owner
        free = or_(coordination.c.owner.is_(None), coordination.c.lease_until <= now)
        if dead is not None:
            free = or_(free, coordination.c.owner == dead)
        if self._database.in_doubt:
            free = or_(free, coordination.c.owner == owner)
        with self._database.writing() as connection:
            self._ensure(connection, search_id)
            taken = {"owner": owner, "held_since": now, "lease_until": now + lease_seconds}
            return _change(connection, and_(coordination.c.search_id == search_id, free), taken)

    @lasting
    def keep_search(self, search_id: str, owner: str, lease_seconds: float) -> bool:
        """Renew the lease on a search; False if somebody else has it, and then its coordinator must stop."""
        with self._database.writing() as connection:
            return _change(connection, _held(search_id, owner), {"lease_until": self._clock() + lease_seconds})

    @lasting
    def leave_search(self, search_id: str, owner: str) -> bool:
        """Give a search back; False if it was not ours any more."""
        with self._database.writing() as connection:
            return _change(connection, _held(search_id, owner), _NOBODY)

    @lasting
    def unfinished(self, also: str | None = None) -> dict[str, dict[str, int]]:
        """Return how many trials of each search are queued or running, by target.

        Searches that nobody coordinates, and that nobody will, are not counted: their process was killed; the search
        ``also`` is, in any case.
        """
        led = or_(coordination.c.lease_until > self._clock(), coordination.c.submitted_at.is_not(None))
        led = or_(led, searches.c.id == also)
        counted = (
            select(trials.c.search_id, trials.c.target, func.count())
            .select_from(trials)
            .join(searches)
            .join(coordination, coordination.c.search_id == searches.c.id, isouter=True)
            .where(trials.c.state.in_(("QUEUED", "RUNNING")), searches.c.status == "running", led)
            .group_by(trials.c.search_id, trials.c.target)
        )
        found: dict[str, dict[str, int]] = {}
        with self._database.reading() as connection:
            for search_id, target, count in connection.execute(counted):
                found.setdefault(search_id, {})[target] = count
        return found

    @lasting
    def running_on(self) -> dict[str, int]:
        """Return how many trials run at the moment, by target; those whose lease ran out do not."""
        runs = and_(trials.c.state == "RUNNING", trials.c.lease_until > self._clock())
        counted = select(trials.c.target, func.count()).where(runs).group_by(trials.c.target)
        with self._database.reading() as connection:
            return {target: count for target, count in connection.execute(counted)}

    @lasting
    def waiting_for(self) -> dict[str, int]:
        """Return how many trials of running searches wait, by target."""
        waits = and_(trials.c.state == "QUEUED", searches.c.status == "running")
        counted = select(trials.c.target, func.count()).select_from(trials).join(searches).where(waits)
        with self._database.reading() as connection:
            return {target: count for target, count in connection.execute(counted.group_by(trials.c.target))}

    @lasting
    def turn(self, search_id: str, devices: Mapping[str, int]) -> tuple[str, ...]:
        """Say that a search would queue a trial, and return the targets on which it may do so now, see ``turns_of``.

        Coordinators that ask at the very same moment may between them queue a trial more than there is room for.
        """
        now, targets = self._clock(), tuple(devices)
        wanting = select(coordination).where(
            or_(coordination.c.wanting_until > now, coordination.c.search_id == search_id)
        )  # fmt: skip
        unfinished = self.unfinished(search_id)
        with self._database.reading() as connection:
            rows = {row["search_id"]: row for row in connection.execute(wanting).mappings()}
        wishes = [_wish(row, unfinished.get(name, {}), now) for name, row in rows.items() if name != search_id]
        mine = rows.get(search_id)
        if mine is None:
            wishes.append(Wish(search_id, targets, unfinished=unfinished.get(search_id, {})))
        else:
            wishes.append(_wish({**mine, "wanting": json.dumps(targets)}, unfinished.get(search_id, {}), now))
        allowed = turns_of(search_id, wishes, devices, _summed(list(unfinished.values())))
        if mine is None or allowed or mine["wanting_until"] < now + WISH_SECONDS / 2 or json.loads(
            mine["wanting"]) != list(targets):  # fmt: skip
            said: dict[str, Any] = {"wanting": json.dumps(targets), "wanting_until": now + WISH_SECONDS}
            said |= {"asked_at": now} if allowed else {}
            with self._database.writing() as connection:
                self._ensure(connection, search_id)
                _change(connection, coordination.c.search_id == search_id, said)
        return allowed

    def _ensure(self, connection: Connection, search_id: str) -> None:
        """Make the row of a search where it is missing."""
        here = select(coordination.c.search_id).where(coordination.c.search_id == search_id)
        if connection.scalar(here) is not None:
            return
        if connection.scalar(select(searches.c.id).where(searches.c.id == search_id)) is None:
            raise UsageError(f"there is no search {search_id!r}")
        values = {"search_id": search_id, "weight": 1.0, "priority": 0, "wanting": "[]", "wanting_until": 0.0,
                  "asked_at": self._clock()}  # fmt: skip
        with suppress(IntegrityError), connection.begin_nested():  # somebody else may make it at the same moment
            connection.execute(insert(coordination).values(values))


def _wish(row: Mapping[Any, Any], unfinished: Mapping[str, int], now: float) -> Wish:
    return Wish(
        search_id=row["search_id"], targets=tuple(json.loads(row["wanting"])), weight=row["weight"],
        priority=row["priority"], most_unfinished=row["most_unfinished"], waited_s=max(0.0, now - row["asked_at"]),
        unfinished=unfinished,
    )  # fmt: skip


def _summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in counts:
        for target, count in each.items():
            total[target] = total.get(target, 0) + count
    return total


def _held(search_id: str, owner: str) -> ColumnElement[bool]:
    return and_(coordination.c.search_id == search_id, coordination.c.owner == owner)


def _change(connection: Connection, expected: ColumnElement[bool], values: dict[str, Any]) -> bool:
    return connection.execute(update(coordination).where(expected).values(values)).rowcount == 1
