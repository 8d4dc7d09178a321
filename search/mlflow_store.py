"""The MLflow store of a home: a SQLite file beside the ledger, or a server, opened fast and without noise."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from evaluators.errors import InfrastructureError, ParetuneError
from search.tracking_server import DATABASE as DATABASE
from search.tracking_server import answers, tracking_server

ARTIFACTS = "mlartifacts"

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Otherwise a pyproject.toml or uv.lock in the current folder is copied into every model.
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    # MLflow's own are 120 s and seven retries: a server that is away would hold everything up for minutes. A request
    # that is sent again after its answer was lost makes a second run; here it is the outbox that tries again.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
}


def store_uri(home: Path) -> str:
    """Return the URI of the home's store, as MLflow's clients take it."""
    return tracking_server(home) or f"sqlite:///{home / DATABASE}"


def store_answers(home: Path) -> bool:
    """Whether it is worth trying to use the home's store; a file always is."""
    server = tracking_server(home)
    return server is None or answers(server)


def artifact_location(home: Path, experiment: str) -> str | None:
    """Return where the files of a new experiment go: a folder of the home, or None where a server decides."""
    if tracking_server(home) is not None:
        return None
    folder = "".join(character if character.isalnum() or character in "-_." else "-" for character in experiment)
    return (home.resolve() / ARTIFACTS / folder).as_uri()


@contextmanager
def mlflow_fails_as(what: str) -> Iterator[None]:
    """Turn whatever MLflow raises into one error that the search can note and survive.

    Raises:
        InfrastructureError: the block failed; the message says what was being done and the first line of why.
    """
    try:
        yield
    except ParetuneError:
        raise
    except Exception as error:
        why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InfrastructureError(f"MLflow failed to {what}: {why}") from error


def open_client(home: Path) -> Any:
    """Return an ``MlflowClient`` on the home's store; a file is created where there is none, a server is not asked.

    Raises:
        InfrastructureError: MLflow cannot be imported, or the file cannot be created or read.
    """
    server = tracking_server(home)
    with mlflow_fails_as(f"open {server or home / DATABASE}"):
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        if server is not None:
            return MlflowClient(server, server)
        _open_file(home)
        client = MlflowClient(store_uri(home.resolve()), store_uri(home.resolve()))
        client.search_experiments(max_results=1)
        return client


def _open_file(home: Path) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from filelock import FileLock

    home.mkdir(parents=True, exist_ok=True)
    database = (home / DATABASE).resolve()
    with FileLock(home / f"{DATABASE}.lock"):
        if database.exists():
            _check(database)
        else:
            _create(database, home / ARTIFACTS)
    _TUNED[str(database)] = ("PRAGMA journal_mode=WAL", "PRAGMA synchronous=NORMAL")
    _tune_connections()


def _check(database: Path) -> None:
    """Read the file once: MLflow itself tries a broken one again for a minute and a half."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _create(database: Path, artifacts: Path) -> None:
    """Run MLflow's migrations on a scratch file without syncing it to disk, then move it in place whole.

    Synced after each of its 70 migrations, a new store takes several times as long.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    scratch = database.with_name(f"{database.name}.{os.getpid()}.new")
    scratch.unlink(missing_ok=True)
    _TUNED[str(scratch)] = ("PRAGMA synchronous=OFF", "PRAGMA journal_mode=MEMORY")
    _tune_connections()
    store = SqlAlchemyStore(f"sqlite:///{scratch}", artifacts.resolve().as_uri())
    store.engine.dispose()
    del _TUNED[str(scratch)]
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(database)


_TUNED: dict[str, tuple[str, ...]] = {}


def _tune_connections() -> None:
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    if not event.contains(Engine, "connect", _tune):
        event.listen(Engine, "connect", _tune)


def _tune(connection: Any, record: Any) -> None:
    """Speed up connections to our own files; every other connection of the process stays as it is.

    The store is a projection of the ledger: what a power cut takes from it is delivered again.
    """
    if not isinstance(connection, sqlite3.Connection):
        return
    (_, _, path), *_ = connection.execute("PRAGMA database_list").fetchall()
    for pragma in _TUNED.get(path, ()):
        connection.execute(pragma)


def quiet_mlflow() -> None:
    """Keep MLflow from asking the network, looking around and talking; what the environment says otherwise stays."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
