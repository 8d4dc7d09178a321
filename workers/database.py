"""Database: an SQLite file or PostgreSQL under the ledger, through the same statements. All that differs is here."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, func, insert, inspect, select, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError

from evaluators.errors import InfrastructureError, UsageError
from workers.stalls import Stalls
from workers.tables import SCHEMA_VERSION, metadata, schema, trials

RETRY_PAUSES_S = (0.1, 0.3, 1.0, 2.0, 4.0)
"""How long is waited before each new try where the connection to the database was lost."""

WRITE_AHEAD_SECONDS = 10.0
"""How long the write-ahead log of a file that others open too is tried to be turned on."""

CLOCK_SECONDS = 60.0
"""How often the clock of a database server is read; in between, it is carried on by this machine's steady clock."""

STALLED_SECONDS = 20.0
"""After so long without the end of a transaction a server is taken for gone: the connection is cut, and made again."""

_TABLES_LOCK = 7_270_883_113
_POSTGRESQL = {
    "connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}  # fmt: skip

MOST_PARAMETERS = 500
"""A statement names no more values than this at once: databases have limits."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class LedgerUnreachableError(InfrastructureError):
    """The connection to the ledger was lost; whether the last change was made is not known."""


def batched(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield ``values`` in pieces that one statement can name."""
    for start in range(0, len(values), MOST_PARAMETERS):
        yield values[start : start + MOST_PARAMETERS]


class _OnDatabase(Protocol):
    _database: Database


S = TypeVar("S", bound=_OnDatabase)


def lasting(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Make a method of the ledger outlast a lost connection: it is called again, a few times."""

    def insisted(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._database.insist(lambda: method(self, *args, **kwargs))

    update_wrapper(insisted, method)
    return insisted


class Database:
    """One database with the ledger's tables, made at the first use. Safe to share between threads.

    Raises:
        UsageError: the URL cannot be used.
        InfrastructureError: the database cannot be opened, read or written, or another version of paretune made it.
    """

    def __init__(self, url: str | URL) -> None:
        try:
            self._engine = _engine(make_url(url))
        except (ArgumentError, ImportError) as error:
            shown = re.sub(r":[^:@/]+@", ":***@", str(url))
            advice = "pip install 'paretune[fleet]'" if isinstance(error, ImportError) else "try sqlite:///ledger.db"
            raise UsageError(f"ledger URL {shown!r} cannot be used: {error}; {advice}") from error
        self._writing = self._engine.execution_options(ledger_writes=True)
        self._stalls = Stalls(STALLED_SECONDS)
        self._tries = threading.local()
        self.insist(self._make_tables)
        self.clock: Callable[[], float] = time.time if self._is_file else ServerClock(self._server_time)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read in one transaction: everything is seen as of one moment."""
        with self._typed_errors(), self._engine.connect() as connection:
            if not self._is_file:
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with self._watched(connection), connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Write in one transaction: all of it is kept when the block ends, or none of it when it raises."""
        with (
            self._typed_errors(),
            self._writing.connect() as connection,
            self._watched(connection),
            connection.begin(),
        ):
            yield connection

    def _watched(self, connection: Connection) -> AbstractContextManager[None]:
        """Cut the connection where the server does not answer for too long."""
        driver = connection.connection.driver_connection
        if self._is_file or driver is None or driver.closed:
            return nullcontext()
        return self._stalls.watched(driver.fileno())

    def insist(self, act: Callable[[], R]) -> R:
        """Return what ``act`` returns; where the connection is lost, call it again after each of ``RETRY_PAUSES_S``.

        Raises:
            LedgerUnreachableError: it was lost every time.
        """
        if getattr(self._tries, "number", 0):
            return act()
        try:
            for number, pause in enumerate((*RETRY_PAUSES_S, None), start=1):
                self._tries.number = number
                try:
                    return act()
                except LedgerUnreachableError:
                    if pause is None:
                        raise
                    time.sleep(pause)
            raise AssertionError("unreachable")
        finally:
            self._tries.number = 0

    @property
    def in_doubt(self) -> bool:
        """Whether an earlier try at what this thread does may have been committed before the connection was lost."""
        return getattr(self._tries, "number", 0) > 1

    @property
    def _is_file(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            where = self._engine.url.render_as_string(hide_password=True)
            lost = error.connection_invalidated or isinstance(error, OperationalError | InterfaceError)
            kind = LedgerUnreachableError if lost and not self._is_file else InfrastructureError
            raise kind(f"the ledger at {where} failed: {str(error.orig).strip()}") from error

    def close(self) -> None:
        """Give the connections back."""
        self._stalls.close()
        self._engine.dispose()

    def _server_time(self) -> float:
        with self.reading() as connection:
            return float(connection.scalar(select(func.extract("epoch", func.clock_timestamp()))) or 0.0)

    def _make_tables(self) -> None:
        with self.writing() as connection:
            if not self._is_file:
                # Of several that open a new database at once, one makes the tables.
                connection.execute(select(func.pg_advisory_xact_lock(_TABLES_LOCK)))
            if inspect(connection).has_table(schema.name) and connection.scalar(select(schema.c.version)) == 2:
                _add_targets(connection)
            metadata.create_all(connection)
            version = connection.scalar(select(schema.c.version))
            if version is None:
                connection.execute(insert(schema).values(version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                raise InfrastructureError(
                    f"the ledger has schema version {version}, this paretune reads {SCHEMA_VERSION}; "
                    "use the paretune that wrote it, or another --home"
                )


class ServerClock:
    """The clock of a database server: all who share the ledger mean the same by "until", whatever their own clocks say.

    Args:
        ask: returns the server's time in seconds since the epoch.
        steady: this machine's clock that nobody sets.
    """

    def __init__(self, ask: Callable[[], float], steady: Callable[[], float] = time.monotonic) -> None:
        self._ask, self._steady = ask, steady
        self._asked_at, self._answer = float("-inf"), 0.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Return the server's time; where it gives no answer, what it said last is carried on.

        Raises:
            InfrastructureError: it never gave one.
        """
        with self._lock:
            now = self._steady()
            if now - self._asked_at >= CLOCK_SECONDS:
                try:
                    # The moment of the answer: asking may begin with a slow connection.
                    self._answer, self._asked_at = self._ask(), self._steady()
                except InfrastructureError:
                    if self._asked_at == float("-inf"):
                        raise
            return self._answer + (self._steady() - self._asked_at)


def _engine(url: URL) -> Engine:
    if (kind := url.get_backend_name()) not in ("sqlite", "postgresql"):
        raise ArgumentError(f"{kind} is neither sqlite nor postgresql")
    if kind == "postgresql":
        # A bare postgresql:// means the driver that the extra `fleet` brings.
        url = url.set(drivername="postgresql+psycopg")
        return create_engine(url, connect_args=dict(_POSTGRESQL), pool_size=5, max_overflow=25)
    engine = create_engine(url)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _add_targets(connection: Connection) -> None:
    """Bring a ledger of schema version 2 to version 3: a trial's target is a column of its own."""
    connection.execute(text("ALTER TABLE trials ADD COLUMN target VARCHAR(64) NOT NULL DEFAULT ''"))
    for trial_id, candidate in connection.execute(select(trials.c.id, trials.c.candidate)).all():
        target = json.loads(candidate)["target"]
        connection.execute(update(trials).where(trials.c.id == trial_id).values(target=target))
    for index in trials.indexes:
        index.create(connection, checkfirst=True)
    connection.execute(update(schema).values(version=3))


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transactions start too late to guard a read before a write; `_begin_sqlite` starts them.
    connection.isolation_level = None
    for pragma in ("busy_timeout=30000", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    _write_ahead(connection)


def _write_ahead(connection: Any) -> None:
    """Turn the write-ahead log on. SQLite does not wait for a lock here: two processes may open a new file at once."""
    until = time.monotonic() + WRITE_AHEAD_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("ledger_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
