"""The commands of a fleet: ``worker``, ``coordinator``, and ``fleet``, which shows who is there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli import options
from search.cli.output import Reply, note

if TYPE_CHECKING:
    from workers.lease import Cancellation


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
    backend_python: options.BackendPython = None,
    alive: options.Alive = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Run the trials that searches of a shared home queue for a target of this machine."""
    from search import api

    _join(home, fleet)
    pythons = options.pythons_of(backend_python, config)
    with _switches() as (drain, abort):
        report = api.work(home, target=target, device=device, name=name, broker=broker, say=note,
                          backend_python=pythons, alive=alive, drain=drain, abort=abort)  # fmt: skip
    return Reply(report.to_json(), lambda: f"{report.worker} has finished {report.finished} trials and left")


def coordinator(
    fleet: options.Fleet = None,
    broker: options.Broker = None,
    mlflow: options.MlflowServer = None,
    alive: options.Alive = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Coordinate the searches that are left to a fleet, until it is stopped; any number may run."""
    from search import fleet_api

    _join(home, fleet)
    options.keep_runs_on(mlflow, home)
    with _switches() as (drain, _):
        report = fleet_api.coordinate(home, broker=broker, say=note, leave=drain, alive=alive)
    return Reply(report.to_json(), lambda: f"the coordinator has left; {report.coordinated} searches came to their end")


def fleet(
    fleet: options.Fleet = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Show the workers of a fleet and what each is doing, and the searches that are left to it."""
    from search import fleet_api
    from search.cli import fleet_view

    _join(home, fleet)
    report = fleet_api.fleet(options.existing(home))
    return Reply(report.to_json(), lambda: fleet_view.fleet(report))


def _join(home: Path, url: str | None) -> None:
    if url is not None:
        from search.fleet_api import fleet_of

        fleet_of(home, url)


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
