"""The commands of deployment: ``promote``, ``rollback``, ``history``, ``diff``, ``reconcile`` and ``revalidate``."""

from __future__ import annotations

from typing import Annotated

import typer

from search.cli import options
from search.cli.output import Reply, note

Alias = Annotated[str, typer.Argument(metavar="NAME@ALIAS", help="a registered model's alias", show_default=False)]
BUNDLE = "folder of a bundle, SEARCH/TRIAL, or NAME@ALIAS"


def promote(
    search: Annotated[
        str,
        typer.Argument(
            metavar="SEARCH", help="id, name or 'latest'; or NAME@ALIAS, to copy its version", show_default=False
        ),
    ],
    name: Annotated[
        str, typer.Option("--as", metavar="NAME@ALIAS", help="registered model and alias", show_default=False)
    ],
    trial: options.TrialNumber = None,
    pick: Annotated[
        str | None,
        typer.Option("--pick", metavar="NAME", help="of the front: fastest, accurate, knee or cheapest"),
    ] = None,
    without_test: Annotated[
        bool,
        typer.Option("--without-test", metavar="", help="accept a workload that has no sealed test split"),
    ] = False,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Prove a trial or a deployed version again on this machine, register it, and point an alias at it."""
    from search import api
    from search.cli import promoted_views

    report = api.promote(search, name, options.existing(home), trial=trial, pick=pick, needs_sealed=not without_test,
                         say=note)  # fmt: skip
    return Reply(report.to_json(), lambda: promoted_views.promotion(report), report.exit_code)


def rollback(
    name: Alias, json: options.Json = False, home: options.Home = options.HOME, config: options.HomeConfig = None
) -> Reply:
    """Take an alias back to the version before."""
    from search import api

    report = api.rollback(name, options.existing(home))
    return Reply(
        report.to_json(), lambda: f"{name} points at version {report.version} again (it was {report.from_version})"
    )


def history(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a registered model", show_default=False)],
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Show what was promoted, rolled back and revalidated under a name."""
    from search import api
    from search.cli import promoted_views

    report = api.history(name, options.existing(home))
    return Reply(report.to_json(), lambda: promoted_views.history(report))


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=BUNDLE, show_default=False)],
    b: Annotated[str, typer.Argument(metavar="B", help=BUNDLE, show_default=False)],
    examples: Annotated[
        int, typer.Option("--examples", metavar="N", min=1, help="how many of validation both answer")
    ] = 1000,
    trust: Annotated[
        str | None,
        typer.Option("--trust", metavar="DIGEST", help="run a folder with code of its own: the digest you were told"),
    ] = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Compare two bundles on real data: answers, latency in turn, accuracy, size."""
    from search import api
    from search.cli import promoted_views

    report = api.diff(a, b, options.existing(home), examples=examples, trust=trust)
    return Reply(report.to_json(), lambda: promoted_views.diff(report))


def reconcile(
    restore: Annotated[
        bool, typer.Option("--restore", metavar="", help="put aliases that were moved by hand back to where they were")
    ] = False,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Find aliases that were moved by hand, and flag what never passed a gate."""
    from search import api
    from search.cli import promoted_views

    report = api.reconcile(options.existing(home), restore=restore)
    return Reply(report.to_json(), lambda: promoted_views.reconciled(report), report.exit_code)


def revalidate(
    name: Alias, json: options.Json = False, home: options.Home = options.HOME, config: options.HomeConfig = None
) -> Reply:
    """Measure a deployed version again: does its certificate still hold?"""
    from search import api
    from search.cli import promoted_views

    report = api.revalidate(name, options.existing(home))
    return Reply(report.to_json(), lambda: promoted_views.revalidation(report), report.exit_code)
