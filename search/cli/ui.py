"""The command that opens MLflow on the search's own store."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from search.cli import options
from search.cli.output import Reply, note

# The job runner starts a queue and further processes, which nothing here uses.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def ui(
    search: Annotated[
        str | None,
        typer.Argument(metavar="[SEARCH]", help="id, name or 'latest' of the search to open", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="port to listen on")] = 5000,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="address to listen on")] = "127.0.0.1",
    print_only: Annotated[bool, typer.Option("--print", metavar="", help="print the command and the URL only")] = False,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.NoConfig = None,
) -> Reply:
    """Open the MLflow UI on a search; Ctrl-C ends it."""
    from search import api

    command, url = api.ui_command(search, _with_store(home), port, host)
    shown = f"{shlex.join(command)}\n{url}" if print_only else url
    reply = Reply({"command": list(command), "url": url}, lambda: shown)
    if print_only:
        return reply
    _refuse_taken(host, port)
    return replace(reply, afterwards=lambda: _serve(command, home / "mlflow-ui.log", host, port))


def _with_store(home: Path) -> Path:
    from evaluators.errors import UsageError

    if not (home / "mlflow.db").is_file():
        raise UsageError(f"home {home} has no MLflow store (mlflow.db); name another with --home")
    return home


def _refuse_taken(host: str, port: int) -> None:
    from evaluators.errors import UsageError

    try:
        socket.create_server((host, port)).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} on {host} is taken; choose another, as in --port {port + 1}") from None
        if error.errno == errno.EACCES:
            raise UsageError(f"port {port} needs root; choose one above 1023 with --port") from None
        raise UsageError(f"cannot listen on --host {host!r}: {error.strerror}; 127.0.0.1 is this machine") from None


def _serve(command: Sequence[str], log: Path, host: str, port: int) -> int:
    """Run the server until it is interrupted (0) or ends by itself.

    Raises:
        InfrastructureError: the server ended by itself.
    """
    from evaluators.errors import InfrastructureError

    # A session of its own, so that Ctrl-C reaches this process alone and the server is ended in order.
    with log.open("wb") as output, subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, **ENVIRONMENT},
        start_new_session=True,
    ) as server:  # fmt: skip
        previous = signal.signal(signal.SIGTERM, _interrupt)
        try:
            if _answers(server, host, port):
                note("ready; Ctrl-C ends it")
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
