"""Coordinators for tests, in a thread: the product's own service; MLflow, which has tests of its own, is left out."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from search import coordinator, fleet_loop
from search import service as service_module
from search.coordinator import FleetMeans
from search.service import Service
from tests.faults.sleeping import TARGET, SleepingSandbox
from tests.search.factories import a_spec
from workers.keeping import Keeping
from workers.lease import Cancellation
from workers.ledger import Ledger
from workers.records import SearchRecord

RING_AGAIN_SECONDS = 1.0
WORKLOAD = "examples/images/workload.py:workload"
_SEEDS = itertools.count()


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
    ledger: Ledger, trials: int = 10, *, name: str | None = None, workload: str = WORKLOAD, **share: Any
) -> SearchRecord:
    """Leave a search of so many sleeping trials to the fleet; none is answered by an earlier one."""
    spec = a_spec(
        workload=workload, target=TARGET, backend="eager", batch_size="1,2,4", threads=1, trials=trials, name=name
    )
    record = ledger.create_search(spec.workload, spec.to_json(), name=name)
    ledger.submit(record.id, **share)
    return record


@contextmanager
def coordinating(ledger: Ledger, home: Path, bell: Any, keeping: Keeping | None = None) -> Iterator[Service]:
    """Coordinate in a thread for the block."""
    means = FleetMeans(SleepingSandbox(), Cancellation(), bell, RING_AGAIN_SECONDS, keeping or Keeping())
    service = Service(ledger, home, means, lambda text: print(text, flush=True))
    thread = threading.Thread(target=service.run, name="service")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinator, "Projection", NoProjection)
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
