"""The command that opens MLflow on the search's own store."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from search.cli import options
from search.cli.output import Reply


def ui(
    context: typer.Context,
    search: Annotated[
        str | None,
        typer.Argument(metavar="[SEARCH]", help="id, name or 'latest' of the search to open", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="port to listen on")] = 5000,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="address to listen on")] = "127.0.0.1",
    print_only: Annotated[bool, typer.Option("--print", metavar="", help="print the command and the URL only")] = False,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Open the MLflow UI on a search; Ctrl-C ends it."""
    from search import api
    from search.cli import server
    from search.tracking_server import tracking_server

    if tracking_server(home) is not None:
        _refuse_own_address(context, home)
        command, url = api.ui_command(search, home)
        return Reply({"command": command, "url": url}, lambda: url)
    home = _with_store(home)
    if not print_only:
        server.refuse_taken(host, port)
    command, url = api.ui_command(search, home, port, host)
    shown = f"{shlex.join(command)}\n{url}" if print_only else url
    reply = Reply({"command": list(command), "url": url}, lambda: shown)
    if print_only:
        return reply
    return replace(reply, afterwards=lambda: server.serve(command, home / "mlflow-ui.log", host, port))


def _refuse_own_address(context: typer.Context, home: Path) -> None:
    from evaluators.errors import UsageError

    for name in ("port", "host"):
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise UsageError(f"--{name} is for a server that paretune starts; home {home} has one (see mlflow.url)")


def _with_store(home: Path) -> Path:
    from evaluators.errors import UsageError

    if not (home / "mlflow.db").is_file():
        raise UsageError(f"home {home} has no MLflow store (mlflow.db); name another with --home")
    return home
