"""The MLflow server behind ``paretune ui``: its port, its start, and its end together with the command."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import time
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from evaluators.errors import InfrastructureError, UsageError
from search.cli.output import note

# The job runner starts a queue and further processes, which nothing here uses.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def refuse_taken(host: str, port: int) -> None:
    """Try the port before a server is started for it.

    Raises:
        UsageError: nobody can listen there; the message says why.
    """
    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} on {host} is taken; choose another, as in --port {port + 1}") from None
        if error.errno == errno.EACCES:
            raise UsageError(f"port {port} needs root; choose one above 1023 with --port") from None
        raise UsageError(f"cannot listen on --host {host!r}: {error.strerror}; 127.0.0.1 is this machine") from None


def serve(command: Sequence[str], log: Path, host: str, port: int, page: str | None = None) -> int:
    """Run the server until it is interrupted (0) or ends by itself; once it answers, open ``page`` in a browser.

    Raises:
        InfrastructureError: the server ended by itself.
    """
    # A session of its own, so that Ctrl-C reaches this process alone and the server is ended in order.
    with log.open("wb") as output, subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **ENVIRONMENT},
        start_new_session=True,
    ) as server:  # fmt: skip
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            if _answers(server, host, port):
                note("ready; Ctrl-C ends it")
                if page is not None:
                    webbrowser.open(page)
            code = server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            signal.signal(signal.SIGTERM, previous)
            _end(server)
    raise InfrastructureError(f"the MLflow server ended by itself with code {code}; its log is {log}")


def _answers(server: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """Wait until the server listens; False if it ended first."""
    reachable = "127.0.0.1" if host in ("0.0.0.0", "") else host  # noqa: S104
    while server.poll() is None:
        try:
            with socket.create_connection((reachable, port), timeout=1):
                return True
        except OSError:
            time.sleep(0.2)
    return False


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers: politely, then for good."""
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, wanted)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=5)
