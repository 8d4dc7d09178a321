"""The commands that come before a search: ``doctor``, ``check`` and ``space``."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli import options
from search.cli.output import Reply


def doctor(
    backend_python: options.BackendPython = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Say what this machine is, and which backends can be used or what to install."""
    from search import api
    from search.cli import views

    report = api.doctor(options.pythons_of(backend_python, config))
    usable = any(backend.usable for backend in report.backends)
    return Reply(report.to_json(), lambda: views.doctor(report), 0 if usable else 3)


def check(
    context: typer.Context,
    workload: options.Workload = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.Config = None,
) -> Reply:
    """Validate a workload in seconds: shapes, splits, metric, export, a float score."""
    from search import api
    from search.cli import views

    report = api.check(options.spec_of(context, config).workload, home)
    return Reply(report.to_json(), lambda: views.check(report), 0 if report.ok else 2)


def space(
    context: typer.Context,
    workload: options.Workload = None,
    target: options.Target = None,
    backend: options.Backend = None,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", metavar="", help="every technique on every backend: legal, or refused and why"),
    ] = False,
    backend_python: options.BackendPython = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.Config = None,
) -> Reply:
    """Show the size of the space, each dimension, and what was left out and why."""
    from search import api
    from search.cli import legality_view, views

    spec = options.spec_of(context, config)
    if explain:
        report = api.space(spec.workload, home, spec, explain=True)
        return Reply(report.to_json(), lambda: legality_view.space(report))
    report = api.space(spec.workload, home, spec)
    return Reply(report.to_json(), lambda: views.space(report))
