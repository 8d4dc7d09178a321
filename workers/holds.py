"""Holds: what one process at a time may do, wherever it is: a name that is held in the ledger for a while."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Column, Double, String, Table, and_, delete, insert, or_, update
from sqlalchemy.exc import IntegrityError

from evaluators.errors import InfrastructureError
from workers.database import Database, lasting
from workers.repeated import Repeated
from workers.tables import metadata

LEASE_SECONDS = 30.0
"""After so long without a word from whoever holds a name, on another machine, it is free."""

LOOK_SECONDS = 0.2

holds = Table(
    "holds",
    metadata,
    Column("name", String(250), primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("lease_until", Double, nullable=False),
)


class Holds:
    """Names that are held, to be mixed into the ledger."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    @lasting
    def take_hold(
        self, name: str, owner: str, lease_seconds: float, is_alive: Callable[[str], bool] = lambda owner: True
    ) -> bool:
        """Take a name that nobody holds, or whose owner is dead or silent; False while somebody holds it."""
        now = self._clock()
        free = or_(holds.c.lease_until <= now, holds.c.owner == owner)
        with self._database.writing() as connection:
            known = connection.scalar(holds.select().with_only_columns(holds.c.owner).where(holds.c.name == name))
            if known is not None and not is_alive(known):
                free = or_(free, holds.c.owner == known)
            taken: dict[str, Any] = {"owner": owner, "lease_until": now + lease_seconds}
            if known is not None:
                change = update(holds).where(and_(holds.c.name == name, free))
                return connection.execute(change.values(taken)).rowcount == 1
            try:
                with connection.begin_nested():
                    connection.execute(insert(holds).values(taken | {"name": name}))
            except IntegrityError:  # somebody else took it at the same moment
                return False
            return True

    @lasting
    def keep_hold(self, name: str, owner: str, lease_seconds: float) -> bool:
        """Renew the lease; False if somebody else holds the name."""
        with self._database.writing() as connection:
            change = update(holds).where(holds.c.name == name, holds.c.owner == owner)
            return connection.execute(change.values(lease_until=self._clock() + lease_seconds)).rowcount == 1

    @lasting
    def leave_hold(self, name: str, owner: str) -> None:
        """Give a name back, if it is ours."""
        with self._database.writing() as connection:
            connection.execute(delete(holds).where(holds.c.name == name, holds.c.owner == owner))


@contextmanager
def held_alone(
    ledger: Holds, name: str, *, owner: str, is_alive: Callable[[str], bool], waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Be the only one who holds ``name`` for the block; others wait for it, wherever they share the ledger.

    Args:
        ledger: where the name is held.
        name: what is held.
        owner: who holds it, as ``owner_name`` says; every block is an owner of its own.
        is_alive: whether an owner may still live.
        waiting: called once where somebody else is at it.

    Raises:
        InfrastructureError: the ledger cannot be reached, or the hold was lost while the block ran.
    """
    owner, told, lost = f"{owner}/{secrets.token_hex(4)}", False, False
    while not ledger.take_hold(name, owner, LEASE_SECONDS, is_alive):
        if not told:
            waiting()
            told = True
        time.sleep(LOOK_SECONDS)

    def keep() -> bool:
        nonlocal lost
        lost = not ledger.keep_hold(name, owner, LEASE_SECONDS)
        return not lost

    try:
        with Repeated(keep, LEASE_SECONDS / 3, f"hold {name}"):
            yield
    finally:
        with suppress(InfrastructureError):  # it is free when its lease runs out
            ledger.leave_hold(name, owner)
    if lost:
        raise InfrastructureError(f"{name} was taken by somebody else meanwhile: this process was silent for too long")
