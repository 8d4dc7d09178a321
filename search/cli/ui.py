"""The command that opens MLflow on the search's own store."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from search.cli import options
from search.cli.output import Reply
from search.saved_views import View


def ui(
    context: typer.Context,
    search: Annotated[
        str | None,
        typer.Argument(metavar="[SEARCH]", help="id, name or 'latest' of the search to open", show_default=False),
    ] = None,
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65535, help="port to listen on")] = 5000,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="address to listen on")] = "127.0.0.1",
    view: Annotated[
        View | None,
        typer.Option(
            "--view",
            help="what to show of the search: its own run, the picture of its front, how it went, the runs of "
            "the front, all trials, the best one, or the front compared",
            show_default=False,
        ),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="open the page in a browser")] = True,
    print_only: Annotated[bool, typer.Option("--print", metavar="", help="print the command and the URL only")] = False,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Open the MLflow UI on a search; Ctrl-C ends it. The page is opened where the command runs on a terminal."""
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
    command, url = api.ui_command(search, home, port, host, view)
    shown = f"{shlex.join(command)}\n{url}" if print_only else url
    reply = Reply({"command": list(command), "url": url, "view": view}, lambda: shown)
    if print_only:
        return reply
    page = url if open_page and not json and sys.stdout.isatty() else None
    return replace(reply, afterwards=lambda: server.serve(command, home / "mlflow-ui.log", host, port, page))


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
