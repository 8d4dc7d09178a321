"""The Python API of a fleet: leave searches to it, follow them, coordinate them, and see who does what."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from pydantic import Field

from evaluators.errors import UsageError
from evaluators.frozen import Frozen
from evaluators.workload import archive_of
from search.api import StatusReport, checked, open_ledger, status, writable
from search.fleet_gauges import FleetGauges
from search.presence import Presence
from search.progress import Progress, Silent
from search.spec import SearchSpec
from workers.alive import touching
from workers.doorbell import AGAIN_SECONDS, Bell
from workers.keeping import Keeping, keep_store, kept_store
from workers.lease import Cancellation, owner_is_alive
from workers.ledger import Ledger, join_fleet, joined_fleet
from workers.metrics import Metrics
from workers.records import SearchRecord, WorkerRecord
from workers.store import Store
from workers.uploads import upload


class Share(Frozen):
    """What a search may have of a fleet.

    Attributes:
        weight: one of twice the weight gets twice the devices.
        priority: searches of a higher one come first.
        most_at_once: no more of its trials are queued or running at a time; any number unless told.
    """

    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    priority: int = 0
    most_at_once: int | None = Field(default=None, ge=1)


class WorkerState(Frozen):
    """One worker of a fleet: where it is, and what it does. ``trial`` is the id of the trial that it runs."""

    name: str
    target: str
    device: str
    host: str
    pid: int
    present: bool
    trial: str | None
    label: str | None
    last_seen: float
    backends: tuple[str, ...]


class SubmittedState(Frozen):
    """One running search that was left to the fleet: who coordinates it, and whom it waits for."""

    search: str
    name: str
    coordinator: str | None
    weight: float
    priority: int
    most_at_once: int | None
    unfinished: dict[str, int]
    waiting_for: tuple[str, ...]


class FleetReport(Frozen):
    """The fleet of a home, as its ledger tells it."""

    workers: tuple[WorkerState, ...]
    searches: tuple[SubmittedState, ...]


RECENT_SECONDS = 3600.0
"""So long a worker that has left is still shown."""


class CoordinatorReport(Frozen):
    """A coordinator that has left: how many searches it saw to their end."""

    coordinated: int


def fleet_of(home: Path, url: str | None, store: str | None = None) -> str | None:
    """Return the URL of the fleet that a command works with: as told, which makes the home join it, else the home's.

    ``store`` is what the home shares with the others from now on.

    Raises:
        UsageError: the home has a ledger of its own, belongs to another fleet, or shares another store.
    """
    if url is not None:
        with closing(Ledger(url)):
            join_fleet(writable(home), url)
    if store is not None:
        keep_store(writable(home), store)
    return url or joined_fleet(home)


def submit(
    spec: SearchSpec, home: Path, share: Share | None = None, *, workload_from: str | None = None, uploads: bool = True
) -> SearchRecord:
    """Leave a search to the fleet that ``home`` has joined.

    Without a target it is the one that the fleet's workers serve. ``workload_from`` says how the workload's file comes
    to the machines: ``upload`` puts its folder into the store, ``path`` means that they see the same path; by itself it
    is uploaded where the home shares a store and ``uploads`` are allowed.

    Raises:
        UsageError: the workload cannot be found, it is not clear on which target to search, or the search names
            interpreters, which are the workers' own.
    """
    spec, share = checked(spec), share or Share()
    if spec.backend_python:
        raise UsageError(
            f"the interpreters of {', '.join(spec.backend_python)} are those of the machines that run trials: "
            "name them where the workers are started, paretune worker --backend-python …"
        )
    with open_ledger(home) as ledger:
        if not spec.targets:
            spec = spec.model_copy(update={"target": (_only_target(ledger),)})
        spec = _uploaded(spec, home, workload_from, uploads)
        record = ledger.create_search(spec.workload, spec.to_json(), name=spec.name)
        ledger.submit(record.id, weight=share.weight, priority=share.priority, most_unfinished=share.most_at_once)
        return record


def follow(
    reference: str, home: Path, progress: Progress | None = None, stop: Cancellation | None = None
) -> StatusReport:
    """Show a search that the fleet runs until it is over or ``stop`` is set, and return how far it is."""
    from search.following import Follower

    with open_ledger(home) as ledger:
        record = ledger.search(reference)
        Follower(ledger, home, record, progress or Silent()).follow(stop or Cancellation())
    return status(record.id, home)


def coordinate(
    home: Path, *, broker: str | None = None, say: Callable[[str], None] = lambda text: None,
    leave: Cancellation | None = None, ring_again_s: float = AGAIN_SECONDS, alive: Path | None = None,
    keeping: Keeping | None = None, metrics: Metrics | None = None,
) -> CoordinatorReport:  # fmt: skip
    """Coordinate the searches that are left to the fleet of ``home``, until ``leave`` is set.

    The file ``alive`` is touched all the while. With ``metrics`` what happens is counted there, and the fleet as a
    whole can be scraped beside it.

    Raises:
        UsageError: the broker's URL cannot be used, or the file cannot be written.
    """
    from search.coordinator import FleetMeans
    from search.service import Service
    from workers.sandbox import Sandbox

    tell = touching(alive)
    sandbox = Sandbox()
    with open_ledger(home) as ledger:
        bell = None if broker is None else _bell(broker, ledger)
        presence = Presence(ledger)
        means = FleetMeans(sandbox, leave or Cancellation(), bell, ring_again_s, keeping=keeping or Keeping(),
                           presence=presence, meter=metrics)  # fmt: skip
        if metrics is not None:
            metrics.add(FleetGauges(ledger, presence))
        rings = "rings through the broker" if bell else "rings nobody: workers look into the ledger"
        say(f"coordinates the searches of {home}, and {rings}")
        try:
            return CoordinatorReport(coordinated=Service(ledger, home, means, say, tell).run())
        finally:
            sandbox.close()


def fleet(home: Path) -> FleetReport:
    """Return the workers of a home that are there or left lately, and the running searches that were left to them."""
    with open_ledger(home) as ledger:
        running = {trial.owner: trial for trial in ledger.running()}
        known = ledger.workers()
        states = []
        for worker in known:
            present, trial = ledger.present(worker, owner_is_alive), running.get(worker.id)
            if present or trial is not None or worker.last_seen >= ledger.now() - RECENT_SECONDS:
                states.append(WorkerState(
                    name=worker.name, target=worker.target, device=worker.device, host=worker.host, pid=worker.pid,
                    present=present, last_seen=worker.last_seen,
                    trial=trial.id if trial else None, label=trial.candidate.label() if trial else None,
                    backends=tuple(each.name for each in worker.capabilities.backends if each.usable),
                ))  # fmt: skip
        return FleetReport(workers=tuple(states), searches=_submitted(ledger, known))


def _uploaded(spec: SearchSpec, home: Path, workload_from: str | None, uploads: bool) -> SearchSpec:
    """Upload the workload of a search where that is how it comes to the machines."""
    url = kept_store(home)
    if not goes_by_upload(spec.workload, workload_from, has_store=url is not None, uploads=uploads) or url is None:
        return spec
    return spec.model_copy(update={"workload": upload(spec.workload, Store(url))})


def goes_by_upload(reference: str, asked: str | None, *, has_store: bool, uploads: bool) -> bool:
    """Whether a workload is to be uploaded.

    Raises:
        UsageError: it was asked for, and cannot be done.
    """
    is_file = reference.rpartition(":")[0].endswith(".py") and archive_of(reference) is None
    if asked not in (None, "path", "upload"):
        raise UsageError(f"a workload comes from 'path' or 'upload', got {asked!r}")
    if asked == "upload" and not is_file:
        raise UsageError(f"workload {reference} is no path of a file, so there is no folder to upload")
    if asked == "upload" and not uploads:
        raise UsageError("uploads are turned off here (PARETUNE_NO_UPLOADS); use --workload-from path")
    if asked == "upload" and not has_store:
        raise UsageError("an upload needs a store that the fleet shares; name it with --store URL")
    return asked != "path" and is_file and has_store and uploads


def _submitted(ledger: Ledger, known: tuple[WorkerRecord, ...]) -> tuple[SubmittedState, ...]:
    unfinished = ledger.unfinished()
    served = {worker.target for worker in known if ledger.present(worker, owner_is_alive)}
    states = []
    for share in ledger.submitted():
        record = ledger.search(share.search_id)
        targets = SearchSpec.model_validate(record.spec).targets
        led = share.owner is not None and (share.lease_until or 0.0) > ledger.now() and owner_is_alive(share.owner)
        states.append(SubmittedState(
            search=record.id, name=record.name, coordinator=share.owner if led else None, weight=share.weight,
            priority=share.priority, most_at_once=share.most_unfinished,
            unfinished=unfinished.get(record.id, {}),
            waiting_for=tuple(target for target in targets if target not in served),
        ))  # fmt: skip
    return tuple(states)


def _only_target(ledger: Ledger) -> str:
    served = sorted({worker.target for worker in ledger.workers() if ledger.present(worker, owner_is_alive)})
    if len(served) == 1:
        return served[0]
    found = f"the fleet's workers serve {', '.join(served)}" if served else "the fleet has no worker at the moment"
    raise UsageError(f"{found}; name the target of the search with --target")


def _bell(broker: str, ledger: Ledger) -> Bell:
    from workers.celery_app import CeleryBell, make_app

    return CeleryBell(make_app(broker), lambda: {worker.target for worker in ledger.workers()})
