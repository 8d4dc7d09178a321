"""The commands that look at a search: ``status``, ``trials``, ``front`` and ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from search.cli import options
from search.cli.output import Reply


def status(
    search: Annotated[
        str | None,
        typer.Argument(metavar="[SEARCH]", help="id, name or 'latest'; without it, all searches", show_default=False),
    ] = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Show how far a search is, or list all searches."""
    from search import api
    from search.cli import views

    options.existing(home)
    if search is None:
        found = api.searches(home)
        return Reply({"searches": [item.to_json() for item in found]}, lambda: views.searches(found))
    state = api.status(search, home)
    return Reply(state.to_json(), lambda: views.status(state))


def trials(
    search: options.Search,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """List every trial of a search with its outcome."""
    from search import api, tables

    found = api.trials(search, options.existing(home))
    identity = api.status(search, home).search
    return Reply(
        {"search": identity, "trials": [trial.to_json() for trial in found]}, lambda: tables.trials_table(found)
    )


def front(
    search: options.Search,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Show the Pareto front: the feasible trials that nothing else beats."""
    from search import api, tables

    result = api.result(search, options.existing(home))
    payload = {"search": result.search, "front": [trial.to_json() for trial in result.front]}
    return Reply(payload, lambda: tables.front_table(result.front))


def report(
    search: options.Search,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="where to write it, default in the search's own folder"),
    ] = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Write the self-contained HTML report with the interactive Pareto plot."""
    from search import api

    path = api.report(search, options.existing(home), output)
    return Reply({"search": api.status(search, home).search, "report": str(path)}, lambda: str(path))
