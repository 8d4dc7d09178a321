"""The ledger's tables, and the database that holds them: an SQLite file or PostgreSQL, through the same statements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import (
    URL,
    Boolean,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError

from evaluators.errors import InfrastructureError, UsageError

SCHEMA_VERSION = 2

metadata = MetaData()

schema = Table("ledger_schema", metadata, Column("version", Integer, primary_key=True))

searches = Table(
    "searches",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("workload", Text, nullable=False),
    Column("spec", Text, nullable=False),
    Column("profile", Text),
    Column("status", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("elapsed_s", Double, nullable=False),
    Column("result", Text),
    Column("finals", Text),
    Column("cancel_requested", Boolean, nullable=False),
)

trials = Table(
    "trials",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("search_id", ForeignKey("searches.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("candidate", Text, nullable=False),
    Column("candidate_hash", String(64), nullable=False),
    Column("evaluation_key", String(128), nullable=False),
    Column("source", String(16), nullable=False),
    Column("state", String(8), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("owner", String(200)),
    Column("lease_until", Double),
    Column("gates", Boolean, nullable=False),
    Column("outcome", Text),
    Column("outcome_kind", String(16)),
    Column("answered_by", String(64)),
    Column("view_id", String(64)),
    Column("created_at", Double, nullable=False),
    Column("finished_at", Double),
    UniqueConstraint("search_id", "number"),
    UniqueConstraint("search_id", "candidate_hash"),
    Index("trials_by_evaluation", "evaluation_key", "state", "finished_at"),
    Index("trials_by_state", "search_id", "state"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("trial_id", ForeignKey("trials.id"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("owner", String(200), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("ended_how", String(16)),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("search_id", ForeignKey("searches.id"), nullable=False),
    Column("trial_number", Integer),
    Column("kind", String(16), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("delivered_at", Double),
    Index("outbox_pending", "search_id", "delivered_at"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("target", String(64), nullable=False),
    Column("capabilities", Text, nullable=False),
    Column("device", String(32), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    Column("ended_at", Double),
)

trial_settings = Table(
    "trial_settings",
    metadata,
    Column("search_id", ForeignKey("searches.id"), primary_key=True),
    Column("settings", Text, nullable=False),
)


class Database:
    """One database with the ledger's tables, made at the first use.

    Raises:
        UsageError: the URL cannot be used.
        InfrastructureError: the database cannot be opened, read or written, or another version of paretune made it.
    """

    def __init__(self, url: str | URL) -> None:
        try:
            self._engine = create_engine(make_url(url))
        except (ArgumentError, ImportError) as error:
            raise UsageError(f"ledger URL {str(url)!r} cannot be used: {error}; try sqlite:///ledger.db") from error
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _prepare_sqlite)
            event.listen(self._engine, "begin", _begin_sqlite)
        self._writing = self._engine.execution_options(ledger_writes=True)
        self._make_tables()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Read in one transaction: everything is seen as of one moment."""
        with self._typed_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Write in one transaction: all of it is kept when the block ends, or none of it when it raises."""
        with self._typed_errors(), self._writing.begin() as connection:
            yield connection

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except IntegrityError:
            raise
        except DBAPIError as error:
            where = self._engine.url.render_as_string(hide_password=True)
            raise InfrastructureError(f"the ledger at {where} failed: {error.orig}") from error

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _make_tables(self) -> None:
        with self.writing() as connection:
            metadata.create_all(connection)
            version = connection.scalar(select(schema.c.version))
            if version is None:
                connection.execute(insert(schema).values(version=SCHEMA_VERSION))
            elif version != SCHEMA_VERSION:
                raise InfrastructureError(
                    f"the ledger has schema version {version}, this paretune reads {SCHEMA_VERSION}; "
                    "use the paretune that wrote it, or another --home"
                )


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transactions start too late to guard a read before a write; `_begin_sqlite` starts them.
    connection.isolation_level = None
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("ledger_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
