"""Ledger: the truth about every search, trial and attempt. Optuna, Celery and MLflow are rebuilt from it.

Every change of a trial is a compare-and-set on its state, its attempt and its owner, so a message that comes
late or twice, and a worker that lost its lease, change nothing.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from sqlalchemy import URL, delete, func, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from evaluators.errors import UsageError
from evaluators.frozen import canonical_json
from evaluators.profile import WorkloadProfile
from workers.comparisons import Comparisons
from workers.coordination import Coordination
from workers.database import Database, batched, lasting
from workers.holds import Holds
from workers.promotions import Promotions, certificates
from workers.records import OutboxRecord, SearchRecord, SearchStatus, search_record
from workers.registered import Workers
from workers.tables import coordination, outbox, searches, trial_settings, trials
from workers.trials import Trials, post

DATABASE = "ledger.db"
FLEET = "ledger.url"


class Ledger(Trials, Workers, Coordination, Comparisons, Promotions, Holds):
    """Searches, their trials, those who run them, and the outbox of news about them. Safe to share between threads.

    Args:
        url: SQLAlchemy URL, ``sqlite:////home/me/.paretune/ledger.db`` or ``postgresql://me@host/paretune``.
        clock: seconds since the epoch; the database server's clock where there is one, unless told.
        new_id: makes the id of a search.

    Raises:
        UsageError: the URL cannot be used.
        InfrastructureError: the database cannot be opened.
    """

    def __init__(
        self,
        url: str | URL,
        *,
        clock: Callable[[], float] | None = None,
        new_id: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> None:
        database = Database(url)
        super().__init__(database, clock or database.clock)
        self._new_id = new_id

    @classmethod
    def at(cls, home: Path) -> Ledger:
        """Open the ledger of a home folder: the fleet's that it has joined, else its own, made where it is missing.

        Raises:
            InfrastructureError: the ledger cannot be reached or opened.
        """
        home.mkdir(parents=True, exist_ok=True)
        return cls(joined_fleet(home) or URL.create("sqlite", database=str(home.resolve() / DATABASE)))

    def now(self) -> float:
        """Return the time in seconds since the epoch by the clock that leases are told by."""
        return self._clock()

    def close(self) -> None:
        """Give the database's connections back."""
        self._database.close()

    def create_search(self, workload: str, spec: dict[str, Any], *, name: str | None = None) -> SearchRecord:
        """Record a new, running search; without a name it is called by its id.

        Raises:
            UsageError: the name is taken or cannot be told from other references.
        """
        if name is not None and (name == "latest" or "/" in name or name != name.strip() or not name):
            raise UsageError(f"a search cannot be named {name!r}; use letters, digits and dashes")
        identifier = self._new_id()
        values = {
            "id": identifier,
            "name": name or identifier,
            "workload": workload,
            "spec": canonical_json(spec),
            "status": "running",
            "created_at": self._clock(),
            "elapsed_s": 0.0,
            "cancel_requested": False,
        }
        self._insert_search(values)
        return self.search(identifier)

    @lasting
    def _insert_search(self, values: dict[str, Any]) -> None:
        try:
            with self._database.writing() as connection:
                connection.execute(insert(searches).values(values))
                post(connection, values["id"], None, self._clock())
        except IntegrityError:
            if self._database.in_doubt and any(record.id == values["id"] for record in self.searches()):
                return
            raise UsageError(f"a search named {values['name']!r} exists; resume it, or choose another --name") from None

    @lasting
    def searches(self) -> tuple[SearchRecord, ...]:
        """Return every search, the oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(select(searches).order_by(searches.c.created_at, searches.c.id)).mappings()
            return tuple(search_record(row) for row in rows)

    @lasting
    def search(self, reference: str) -> SearchRecord:
        """Find a search by its id, its name, an unambiguous beginning of either, or ``latest``.

        Raises:
            UsageError: nothing, or more than one search, answers to the reference; the message lists what exists.
        """
        with self._database.reading() as connection:
            named = select(searches).where(or_(searches.c.id == reference, searches.c.name == reference))
            exact = [search_record(row) for row in connection.execute(named).mappings()]
        if exact:
            return min(exact, key=lambda search: search.id != reference)
        everything = self.searches()
        if reference == "latest" and everything:
            return everything[-1]
        begun = [search for search in everything if reference and _begins(search, reference)]
        if len(begun) == 1:
            return begun[0]
        problem = f"{len(begun)} searches begin with {reference!r}" if begun else f"there is no search {reference!r}"
        raise UsageError(f"{problem}; {_listed(begun or everything)}")

    def update_search(
        self,
        search_id: str,
        *,
        status: SearchStatus | None = None,
        profile: WorkloadProfile | None = None,
        result: dict[str, Any] | None = None,
        finals: dict[str, Any] | None = None,
        add_elapsed_s: float = 0.0,
    ) -> SearchRecord:
        """Set what is given and add to the elapsed time; a new status or result is posted to the outbox.

        Raises:
            UsageError: there is no such search.
        """
        values: dict[str, Any] = {"elapsed_s": searches.c.elapsed_s + add_elapsed_s}
        if status is not None:
            values["status"] = status
        if profile is not None:
            values["profile"] = profile.model_dump_json()
        if result is not None:
            values["result"] = canonical_json(result)
        if finals is not None:
            values["finals"] = canonical_json(finals)
        self._change_search(search_id, values, news=status is not None or result is not None)
        return self.search(search_id)

    @lasting
    def _change_search(self, search_id: str, values: dict[str, Any], news: bool) -> None:
        with self._database.writing() as connection:
            changed = connection.execute(update(searches).where(searches.c.id == search_id).values(values)).rowcount
            if changed and news:
                post(connection, search_id, None, self._clock())
        if not changed:
            raise UsageError(f"there is no search {search_id!r}")

    @lasting
    def drop_search(self, search_id: str) -> None:
        """Forget a search that never had a trial, and free its name.

        Raises:
            UsageError: it has trials; those are never forgotten.
        """
        with self._database.writing() as connection:
            if connection.scalar(select(trials.c.id).where(trials.c.search_id == search_id).limit(1)) is not None:
                raise UsageError(f"search {search_id!r} has trials; cancel it instead")
            for table in (outbox, trial_settings, coordination):
                connection.execute(delete(table).where(table.c.search_id == search_id))
            connection.execute(delete(searches).where(searches.c.id == search_id))

    @lasting
    def request_cancel(self, search_id: str, wanted: bool = True) -> None:
        """Ask the coordinator of a search, in whatever process it lives, to stop; or take that back.

        Raises:
            UsageError: there is no such search.
        """
        change = update(searches).where(searches.c.id == search_id).values(cancel_requested=wanted)
        with self._database.writing() as connection:
            changed = connection.execute(change).rowcount
        if not changed:
            raise UsageError(f"there is no search {search_id!r}")

    @lasting
    def named_bundles(self) -> frozenset[str]:
        """Return the bundles that a trial or a certificate names, each as ``BACKEND/NAME``."""
        with self._database.reading() as connection:
            texts = [*connection.scalars(select(trials.c.outcome).where(trials.c.outcome.is_not(None))),
                     *connection.scalars(select(certificates.c.certificate))]  # fmt: skip
        named = (json.loads(text).get("bundle") for text in texts)
        return frozenset("/".join(PurePath(bundle).parts[-2:]) for bundle in named if bundle)

    @lasting
    def pending(self, search_id: str | None = None) -> tuple[OutboxRecord, ...]:
        """Return the undelivered news, the oldest first, of one search or of all."""
        waiting = select(outbox).where(outbox.c.delivered_at.is_(None)).order_by(outbox.c.id)
        if search_id is not None:
            waiting = waiting.where(outbox.c.search_id == search_id)
        with self._database.reading() as connection:
            return tuple(OutboxRecord.model_validate(dict(row)) for row in connection.execute(waiting).mappings())

    @lasting
    def ended_pending(self) -> tuple[str, ...]:
        """Return the searches that have ended and of which there is undelivered news, the oldest news first."""
        waiting = (
            select(outbox.c.search_id)
            .join(searches)
            .where(outbox.c.delivered_at.is_(None), searches.c.status != "running")
            .group_by(outbox.c.search_id)
            .order_by(func.min(outbox.c.id))
        )
        with self._database.reading() as connection:
            return tuple(connection.scalars(waiting))

    @lasting
    def undelivered(self) -> int:
        """Return how much news is undelivered, of all searches."""
        with self._database.reading() as connection:
            waiting = select(func.count()).select_from(outbox).where(outbox.c.delivered_at.is_(None))
            return connection.scalar(waiting) or 0

    @lasting
    def delivered(self, ids: Collection[int], view_ids: Mapping[str, str] | None = None) -> None:
        """Mark news as delivered; doing so twice changes nothing. ``view_ids`` says where trials are seen, by id."""
        wanted = sorted(ids)
        with self._database.writing() as connection:
            for some in batched(wanted):
                change = update(outbox).where(outbox.c.id.in_(some), outbox.c.delivered_at.is_(None))
                connection.execute(change.values(delivered_at=self._clock()))
            for trial_id, view_id in (view_ids or {}).items():
                connection.execute(update(trials).where(trials.c.id == trial_id).values(view_id=view_id))


def joined_fleet(home: Path) -> str | None:
    """Return the URL of the ledger of the fleet that a home has joined, or None where it has its own."""
    try:
        return (home / FLEET).read_text().strip() or None
    except FileNotFoundError:
        return None


def join_fleet(home: Path, url: str) -> None:
    """Make the fleet's ledger the ledger of a home: every command on that home then looks there.

    Raises:
        UsageError: the home has a ledger of its own, or belongs to another fleet.
    """
    known = joined_fleet(home)
    if known is not None and known != url:
        raise UsageError(f"home {home} belongs to another fleet (see {home / FLEET}); name another with --home")
    if known is None and (home / DATABASE).exists():
        raise UsageError(f"home {home} has a ledger of its own; name another with --home to work with a fleet")
    home.mkdir(parents=True, exist_ok=True)
    if known is None:
        # The URL may hold a password.
        part = home / f"{FLEET}.{os.getpid()}"
        part.touch(mode=0o600)
        part.write_text(url + "\n")
        part.replace(home / FLEET)


def _begins(search: SearchRecord, reference: str) -> bool:
    return search.id.startswith(reference) or search.name.startswith(reference)


def _listed(records: Sequence[SearchRecord]) -> str:
    if not records:
        return "no search has been run here yet (is --home right?)"
    latest = records[-10:]
    lines = [f"{record.id} {record.name} ({record.status}, {record.workload})" for record in reversed(latest)]
    more = f", and {len(records) - len(latest)} older" if len(records) > len(latest) else ""
    return "these exist: " + "; ".join(lines) + more
