"""The MLflow server that a home keeps its runs on, where the store is no file in the home."""

from __future__ import annotations

import http.client
import os
from pathlib import Path
from urllib.parse import urlsplit

from evaluators.errors import UsageError

FILE, DATABASE = "mlflow.url", "mlflow.db"
ANSWER_SECONDS = 2.0


def tracking_server(home: Path) -> str | None:
    """Return the URL of the server that a home has chosen, or None where its store is a file of its own."""
    try:
        return (home / FILE).read_text().strip() or None
    except FileNotFoundError:
        return None


def use_tracking_server(home: Path, url: str) -> None:
    """Make an MLflow server the store of a home: every command on that home then means it. It need not be up.

    Raises:
        UsageError: the URL is none of a server, or the home has a store of its own or another server.
    """
    url = checked_url(url)
    known = tracking_server(home)
    if known is not None and known != url:
        raise UsageError(f"home {home} keeps its runs on {known} (see {home / FILE}); name another with --home")
    if known is None and (home / DATABASE).exists():
        raise UsageError(f"home {home} has an MLflow store of its own ({DATABASE}); name another with --home "
                         f"to work with {url}")  # fmt: skip
    home.mkdir(parents=True, exist_ok=True)
    if known is None:
        part = home / f"{FILE}.{os.getpid()}"
        part.write_text(url + "\n")
        part.replace(home / FILE)


def checked_url(url: str) -> str:
    """Return the URL of a server without a slash at its end.

    Raises:
        UsageError: it is of another kind than http and https, or holds more than host, port and path.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"MLflow server {url!r} cannot be used; write it as http://host:5000 or https://host")
    if parts.username is not None or parts.password is not None:
        raise UsageError(
            "the MLflow server's URL holds a user or password, which would be kept in the home; "
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if parts.query or parts.fragment:
        raise UsageError(
            f"MLflow server {url!r} has a query or a fragment; write it as http://host:5000 or https://host"
        )
    return url.rstrip("/")


def answers(url: str) -> bool:
    """Whether a server is there at all: it takes part in no more than one small request, and is not waited for long."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", f"{parts.path}/health")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
