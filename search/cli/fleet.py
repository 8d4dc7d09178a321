"""The commands of a fleet: ``worker``, ``coordinator``, ``beat``, and ``fleet``, which shows who is there."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import options
from search.cli.logs import LogFormat, log_to
from search.cli.output import Reply

if TYPE_CHECKING:
    from workers.lease import Cancellation
    from workers.metrics import Metrics

LOOPBACK = "127.0.0.1"


def worker(
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="NAME", help="which of this machine's targets (default: doctor's)"),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="ID", help="device of the target, such as cuda:1 (default: first)")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="WORKER", help="what people call this worker")] = None,
    fleet: options.Fleet = None,
    broker: options.Broker = None,
    store: options.Store = None,
    no_uploads: options.NoUploads = False,
    cache_max_size: options.CacheMaxSize = None,
    backend_python: options.BackendPython = None,
    alive: options.Alive = None,
    log_format: options.LogFormats = LogFormat.AUTO,
    metrics_port: options.MetricsPort = None,
    metrics_host: options.MetricsHost = LOOPBACK,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Run the trials that searches of a fleet, or of a shared home, queue for a target of this machine."""
    from search import api

    _join(home, fleet, store)
    keeping = options.keeping_of(cache_max_size, config, no_uploads)
    pythons = options.pythons_of(backend_python, config)
    say = log_to(log_format=log_format, part="worker")
    with _switches() as (drain, abort), _metrics(metrics_host, metrics_port, say) as metrics:
        report = api.work(home, target=target, device=device, name=name, broker=broker, say=say,
                          backend_python=pythons, keeping=keeping, drain=drain, abort=abort, alive=alive,
                          meter=metrics)  # fmt: skip
    return Reply(report.to_json(), lambda: f"{report.worker} has finished {report.finished} trials and left")


def coordinator(
    fleet: options.Fleet = None,
    broker: options.Broker = None,
    store: options.Store = None,
    no_uploads: options.NoUploads = False,
    mlflow: options.MlflowServer = None,
    alive: options.Alive = None,
    log_format: options.LogFormats = LogFormat.AUTO,
    metrics_port: options.MetricsPort = None,
    metrics_host: options.MetricsHost = LOOPBACK,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Coordinate the searches that are left to a fleet, until it is stopped; any number may run."""
    from search import fleet_api
    from workers.keeping import Keeping

    _join(home, fleet, store)
    options.keep_runs_on(mlflow, home)
    say = log_to(log_format=log_format, part="coordinator")
    with _switches() as (drain, _), _metrics(metrics_host, metrics_port, say) as metrics:
        report = fleet_api.coordinate(home, broker=broker, say=say, leave=drain, alive=alive, metrics=metrics,
                                      keeping=Keeping(uploads=not no_uploads))  # fmt: skip
    return Reply(report.to_json(), lambda: f"the coordinator has left; {report.coordinated} searches came to their end")


def beat(
    every: Annotated[
        str, typer.Option("--every", metavar="DURATION", help="how long a measurement of what is deployed counts")
    ] = "24h",
    fleet: options.Fleet = None,
    broker: options.Broker = None,
    store: options.Store = None,
    alive: options.Alive = None,
    log_format: options.LogFormats = LogFormat.AUTO,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Have the workers of a fleet revalidate what is deployed, again and again, until it is stopped."""
    from evaluators.errors import UsageError
    from search.api import open_ledger
    from search.revalidations import keep_revalidating
    from search.units import seconds

    try:
        every_s = seconds(every)
    except ValueError as error:
        raise UsageError(f"--every: {error}") from None
    if broker is None:
        raise UsageError("without a broker there is nobody to ring for: name it with --broker URL (or PARETUNE_BROKER)")
    _join(home, fleet, store)
    say = log_to(log_format=log_format, part="beat")
    with _switches() as (drain, _), open_ledger(home) as ledger:
        report = keep_revalidating(ledger, broker, every_s, say=say, leave=drain, alive=alive)
    return Reply(report.to_json(), lambda: f"the beat has left; it rang {report.rung} times")


def fleet(
    fleet: options.Fleet = None,
    store: options.Store = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Show the workers of a fleet and what each is doing, and the searches that are left to it."""
    from search import fleet_api
    from search.cli import fleet_view

    _join(home, fleet, store)
    report = fleet_api.fleet(options.existing(home))
    return Reply(report.to_json(), lambda: fleet_view.fleet(report))


def _join(home: Path, url: str | None, store: str | None) -> None:
    if url is not None or store is not None:
        from search.fleet_api import fleet_of

        fleet_of(home, url, store)


@contextmanager
def _metrics(host: str, port: int | None, say: Callable[[str], None]) -> Iterator[Metrics | None]:
    """Yield what counts, with its endpoint open while the block runs; None where nobody asked for it."""
    if port is None:
        yield None
        return
    from workers.metrics import Metrics

    metrics = Metrics()
    with metrics.served(host, port) as chosen:
        say(f"metrics at http://{host}:{chosen}/metrics")
        yield metrics


@contextmanager
def _switches() -> Iterator[tuple[Cancellation, Cancellation]]:
    """Yield two switches: SIGTERM sets the first one, and again the second one; SIGQUIT and Ctrl-C do so at once."""
    from workers.lease import Cancellation

    drain, abort = Cancellation(), Cancellation()

    def leave(number: int, _: FrameType | None) -> None:
        if drain.is_set or number != signal.SIGTERM:
            abort.set()
        drain.set()

    previous = {each: signal.signal(each, leave) for each in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)}
    try:
        yield drain, abort
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
