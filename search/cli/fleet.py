"""The command ``worker``: this machine works for searches that others started."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
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
    backend_python: options.BackendPython = None,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Run the trials that searches of a shared home queue for a target of this machine."""
    from search import api

    pythons = options.pythons_of(backend_python, config)
    with _switches() as (drain, abort):
        report = api.work(home, target=target, device=device, name=name, say=note, backend_python=pythons,
                          drain=drain, abort=abort)  # fmt: skip
    return Reply(report.to_json(), lambda: f"{report.worker} has finished {report.finished} trials and left")


@contextmanager
def _switches() -> Iterator[tuple[Cancellation, Cancellation]]:
    """Yield two switches: SIGTERM sets the first one, and again the second one; so does Ctrl-C at once."""
    from workers.lease import Cancellation

    drain, abort = Cancellation(), Cancellation()

    def leave(number: int, _: FrameType | None) -> None:
        if drain.is_set or number == signal.SIGINT:
            abort.set()
        drain.set()

    previous = {each: signal.signal(each, leave) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield drain, abort
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
