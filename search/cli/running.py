"""The commands that run trials or stop them: ``search``, ``resume``, ``reproduce`` and ``cancel``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli import INTERRUPTED, options
from search.cli.options import FLEET, LIMITS, SPENDING
from search.cli.output import Reply, console, note

if TYPE_CHECKING:
    from search.live import LiveProgress
    from search.result import SearchResult
    from search.spec import SearchSpec


def search(
    context: typer.Context,
    workload: options.Workload = None,
    latency_budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="longest call with the whole batch: 5ms, 200us; see --scenario", rich_help_panel=LIMITS
        ),
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option(metavar="X", help="largest drop from the original model (default 0.01)", rich_help_panel=LIMITS),
    ] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(metavar="X", help="lowest accuracy", rich_help_panel=LIMITS)
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="largest bundle: 800KB, 10MB", rich_help_panel=LIMITS)
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="latency|throughput|size|cost",
            rich_help_panel=LIMITS,
            help="what to optimise (default throughput with a latency budget, latency without; "
            "cost, of a million inferences, with prices for several targets)",
        ),
    ] = None,
    percentile: Annotated[
        str | None,
        typer.Option(metavar="p50|p90|p95|p99", help="latency that counts (default p95)", rich_help_panel=LIMITS),
    ] = None,
    confidence: Annotated[
        str | None,
        typer.Option(
            metavar="P", help="how surely limits must be kept: 0.99, 99% (default 0.95)", rich_help_panel=LIMITS
        ),
    ] = None,
    max_foreign_load: Annotated[
        str | None,
        typer.Option(
            metavar="P", help="waiting for a processor that spoils a measurement (5%)", rich_help_panel=SPENDING
        ),
    ] = None,
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="single|server",
            rich_help_panel=LIMITS,
            help="what the budget is of: calls one after the other, or requests that come at random (default single)",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/s", help="requests that come: 200/s (default: as many as can be)", rich_help_panel=LIMITS
        ),
    ] = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="requests wait so long for a batch (default: what suits)", rich_help_panel=LIMITS
        ),
    ] = None,
    instances: Annotated[
        int | None,
        typer.Option(metavar="N", help="processes that serve (default: what suits)", rich_help_panel=LIMITS),
    ] = None,
    target: options.Target = None,
    backend: options.Backend = None,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    backend_python: options.BackendPython = None,
    trials: Annotated[
        int | None, typer.Option(metavar="N", help="number of trials (default 60)", rich_help_panel=SPENDING)
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="time of the whole search: 10m", rich_help_panel=SPENDING)
    ] = None,
    trial_timeout: Annotated[
        str | None, typer.Option(metavar="TIME", help="time of one trial (default 300s)", rich_help_panel=SPENDING)
    ] = None,
    memory_limit: Annotated[
        str | None, typer.Option(metavar="SIZE", help="memory of one trial: 4GB", rich_help_panel=SPENDING)
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="seed of the sampler (default 0)")] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="name to find the search by")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="show the plan, run nothing")] = False,
    cache_max_size: options.CacheMaxSize = None,
    fleet: options.Fleet = None,
    mlflow: options.MlflowServer = None,
    store: options.Store = None,
    workload_from: Annotated[
        str | None,
        typer.Option(
            metavar="path|upload",
            rich_help_panel=FLEET,
            help="whether machines see the workload's path, or its folder is uploaded (default: if there is a store)",
        ),
    ] = None,
    no_uploads: options.NoUploads = False,
    weight: Annotated[
        float | None, typer.Option(metavar="X", help="share of the fleet (default 1)", rich_help_panel=FLEET)
    ] = None,
    priority: Annotated[
        int | None, typer.Option(metavar="N", help="higher comes first (default 0)", rich_help_panel=FLEET)
    ] = None,
    most_at_once: Annotated[
        int | None, typer.Option(metavar="N", help="trials at a time, at most", rich_help_panel=FLEET)
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", metavar="", help="leave it to the fleet and return", rich_help_panel=FLEET)
    ] = False,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.Config = None,
) -> Reply:
    """Search the joint space for the best models within the limits."""
    from evaluators.errors import UsageError
    from search import api
    from search.fleet_api import fleet_of
    from workers.ledger import joined_fleet

    spec = options.spec_of(context, config)
    if dry_run:
        return _planned(spec, home)
    options.keep_runs_on(mlflow, home)
    asked = {"weight": weight, "priority": priority, "most_at_once": most_at_once}
    share = {name: value for name, value in asked.items() if value is not None}
    keeping = options.keeping_of(cache_max_size, config, no_uploads)
    joined = fleet_of(home, fleet, store) if fleet or store else joined_fleet(home)
    if joined is not None:
        how = {"workload_from": workload_from, "uploads": keeping.uploads}
        return _submitted(spec, home, share, how, detach)
    if detach or share or workload_from:
        raise UsageError("--detach, --weight, --priority, --most-at-once and --workload-from are for a fleet; name it "
                         "with --fleet URL")  # fmt: skip
    with _progress(spec) as progress:
        result = api.run_spec(spec, home, progress, keeping)
    return _finished(result)


def _submitted(spec: SearchSpec, home: Path, share: dict[str, float], how: dict[str, Any], detach: bool) -> Reply:
    """Leave a search to a fleet, and show it until it is over; Ctrl-C stops looking on, not the search."""
    from pydantic import ValidationError

    from evaluators.errors import UsageError
    from search import api, fleet_api

    try:
        granted = fleet_api.Share.model_validate(share)
    except ValidationError as error:
        told = error.errors()[0]
        raise UsageError(f"--{str(told['loc'][0]).replace('_', '-')}: {told['msg']} (got {told['input']})") from None
    record = fleet_api.submit(spec, home, granted, **how)
    if detach:
        left = {"search": record.id, "name": record.name, "submitted": True}
        return Reply(left, lambda: f"{record.name} is left to the fleet; paretune status {record.name} shows it")
    try:
        with _progress(spec) as progress:
            return _finished(fleet_api.follow(record.id, home, progress).result)
    except KeyboardInterrupt:
        note(f"the fleet goes on; paretune status {record.name} shows it, paretune cancel {record.name} stops it")
        return Reply(api.result(record.id, home).to_json(), lambda: "", INTERRUPTED)


def resume(
    search: options.Search,
    cache_max_size: options.CacheMaxSize = None,
    backend_python: options.BackendPython = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Go on with a search that was interrupted, where it stopped."""
    from search import api

    pythons = options.pythons_of(backend_python, config)
    with _progress(api.status(search, options.existing(home)).spec) as progress:
        result = api.resume(search, home, progress, pythons, options.keeping_of(cache_max_size, config))
    return _finished(result)


def reproduce(
    search: options.Search,
    trial: options.Trial,
    backend_python: options.BackendPython = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Run one trial of a search again, in the foreground, with its logs."""
    from search import api, tables

    pythons = options.pythons_of(backend_python, config)
    result = api.reproduce(search, trial, options.existing(home), show=_logged, backend_python=pythons)
    payload = {"search": api.status(search, home).search, "trial": result.to_json()}
    return Reply(payload, lambda: tables.trials_table([result]), 0 if result.feasible else 4)


def _logged(text: str) -> None:
    if text:
        print(text, file=sys.stderr)


def cancel(
    search: options.Search,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Ask a running search to stop after the trials that are running."""
    from search import api

    state = api.cancel(search, options.existing(home))
    return Reply(
        {"search": state.search, "name": state.name, "cancel_requested": True},
        lambda: f"{state.name} is asked to stop; paretune resume {state.name} would go on with it",
    )


def _progress(spec: SearchSpec) -> LiveProgress:
    from search.live import LiveProgress

    return LiveProgress(console(sys.stderr), spec, spec.trials, spec.timeout_s)


def _planned(spec: SearchSpec, home: Path) -> Reply:
    from search import api
    from search.cli import views

    report = api.space(spec.workload, home, spec)
    payload = {"dry_run": True, "spec": spec.to_json(), "space": report.to_json()}
    payload["constraints"] = [constraint.model_dump(mode="json", exclude_none=True) for constraint in spec.constraints]
    return Reply(payload, lambda: views.plan(spec, report))


def _finished(result: SearchResult) -> Reply:
    from search import tables

    return Reply(result.to_json(), lambda: tables.summary(result), result.exit_code)
