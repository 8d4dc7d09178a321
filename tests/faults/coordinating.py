"""Coordinators for tests, in a thread: the product's own service, with MLflow only where it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from search import coordinator, fleet_loop
from search import service as service_module
from search.coordinator import FleetMeans
from search.service import Service
from tests.faults.sleeping import GPU, SMALL, TARGET, SleepingSandbox
from tests.search.factories import a_spec
from workers.keeping import Keeping
from workers.lease import Cancellation
from workers.ledger import Ledger
from workers.records import SearchRecord
from workers.settings import TrialSettings

RING_AGAIN_SECONDS = 1.0
LEASE_SECONDS = 60.0
WORKLOAD = "examples/images/workload.py:workload"


class NoProjection:
    """Takes the place of MLflow and the report."""

    report: str | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> NoProjection:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def submit(
    ledger: Ledger, trials: int = 10, *, name: str | None = None, workload: str = WORKLOAD,
    spec: dict[str, Any] | None = None, **share: Any,
) -> SearchRecord:  # fmt: skip
    """Leave a search of so many sleeping trials to the fleet; none is answered by an earlier one."""
    wanted = {"workload": workload, "target": TARGET, "backend": "eager", "batch_size": "1,2,4", "threads": 1,
              "trials": trials, "name": name}  # fmt: skip
    made = a_spec(**(wanted | (spec or {})))
    record = ledger.create_search(made.workload, made.to_json(), name=name)
    ledger.submit(record.id, **share)
    return record


def submit_small(ledger: Ledger, batch_sizes: str = "1", **spec: Any) -> SearchRecord:
    """Leave a search to the fleet that tries every candidate of a small space, so that its front is always the same."""
    return submit(ledger, 1000, spec={"workload": SMALL, "batch_size": batch_sizes} | spec)


def submit_sizes(ledger: Ledger, sizes: int, **spec: Any) -> SearchRecord:
    """Leave a search to the workers of ``GPU`` that tries batch sizes from 1 on and nothing else.

    Of the schemes of such a target only fp32 is left: each batch size is one candidate.
    """
    return submit_small(ledger, ",".join(str(size) for size in range(1, sizes + 1)), target=GPU, **spec)


@contextmanager
def coordinating(
    ledger: Ledger, home: Path, bell: Any, keeping: Keeping | None = None, *, mlflow: bool = False,
    lease_seconds: float = LEASE_SECONDS,
) -> Iterator[Service]:  # fmt: skip
    """Coordinate in a thread for the block; only if told so with MLflow and the report.

    Trials that nobody renews for ``lease_seconds`` are given to others.
    """
    means = FleetMeans(SleepingSandbox(), Cancellation(), bell, RING_AGAIN_SECONDS, keeping or Keeping())
    service = Service(ledger, home, means, lambda text: print(text, flush=True))
    thread = threading.Thread(target=service.run, name="service")
    with pytest.MonkeyPatch.context() as patch:
        if mlflow:
            patch.setattr(service_module, "DELIVERY_SECONDS", 0.5)
        else:
            patch.setattr(coordinator, "Projection", NoProjection)
            patch.setattr(service_module, "deliver_ended", lambda *_: True)
        patch.setattr(coordinator, "TrialSettings", partial(TrialSettings, lease_seconds=lease_seconds))
        patch.setattr(coordinator, "WATCH_SECONDS", 0.3)
        patch.setattr(fleet_loop, "LOOK_SECONDS", 0.05)
        patch.setattr(service_module, "LOOK_SECONDS", 0.1)
        thread.start()
        try:
            yield service
        finally:
            means.leave.set()
            thread.join(30)
            assert not thread.is_alive()
