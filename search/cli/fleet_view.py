"""What people see of a fleet: its workers and what each does, and the searches that are left to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from search.cli.views import plain_table

if TYPE_CHECKING:
    from search.fleet_api import FleetReport, SubmittedState, WorkerState


def fleet(report: FleetReport) -> RenderableType:
    """The workers, those who are there first, and the searches."""
    workers = plain_table("worker", "target", "device", "host", "does", folded=("worker", "does"))
    for worker in sorted(report.workers, key=lambda each: not each.present):
        workers.add_row(worker.name, worker.target, worker.device, worker.host, _doing(worker))
    searches = plain_table("search", "weight", "priority", "unfinished", "name", "state", folded=("name", "state"))
    for search in report.searches:
        count = str(sum(search.unfinished.values()))
        searches.add_row(search.search, f"{search.weight:g}", str(search.priority), count, search.name, _state(search))
    return Group(
        workers if report.workers else Text("no worker has been here in the last hour"), "",
        searches if report.searches else Text("no search is left to the fleet at the moment"),
    )  # fmt: skip


def _doing(worker: WorkerState) -> str:
    if not worker.present:
        return f"gone since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(worker.last_seen))}"
    return "idle" if worker.trial is None else f"trial {worker.trial}: {worker.label}"


def _state(search: SubmittedState) -> str:
    if search.coordinator is None:
        return "waits for a coordinator"
    if search.waiting_for:
        return f"waits for a worker of {', '.join(search.waiting_for)}"
    return f"coordinated by {search.coordinator.partition('/')[0]}"
