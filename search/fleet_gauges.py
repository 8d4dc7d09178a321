"""Gauges of a fleet, read from its ledger at each scrape: what waits, what is busy, what is yet to be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from evaluators.errors import InfrastructureError
from search.presence import Presence
from workers.ledger import Ledger

if TYPE_CHECKING:
    from prometheus_client.core import GaugeMetricFamily

FRESH_SECONDS = 1.0


class FleetGauges:
    """A collector for Prometheus. Where the ledger cannot be reached it says so, and leaves out the rest."""

    def __init__(self, ledger: Ledger, presence: Presence) -> None:
        self._ledger, self._presence = ledger, presence

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the gauges as they are now."""
        from prometheus_client.core import GaugeMetricFamily

        up = GaugeMetricFamily("paretune_ledger_up", "Whether the ledger answers.")
        try:
            found = list(self._read())
        except InfrastructureError:
            found = []
        up.add_metric([], float(bool(found)))
        return iter([up, *found])

    def _read(self) -> Iterator[GaugeMetricFamily]:
        from prometheus_client.core import GaugeMetricFamily

        waiting, running = self._ledger.waiting_for(), self._ledger.running_on()
        there: dict[str, int] = {}
        for worker in self._presence.workers(FRESH_SECONDS):
            there[worker.target] = there.get(worker.target, 0) + 1
        depth = GaugeMetricFamily("paretune_queue_depth", "Trials that wait for a worker.", labels=["target"])
        devices = GaugeMetricFamily("paretune_devices", "Devices that have a worker.", labels=["target", "state"])
        for target in sorted({*waiting, *running, *there}):
            depth.add_metric([target], waiting.get(target, 0))
            busy = min(running.get(target, 0), there.get(target, 0))
            devices.add_metric([target, "busy"], busy)
            devices.add_metric([target, "idle"], there.get(target, 0) - busy)
        searches = GaugeMetricFamily("paretune_searches", "Running searches that were left to the fleet.")
        searches.add_metric([], len(self._ledger.submitted()))
        outbox = GaugeMetricFamily("paretune_outbox_depth", "News that MLflow has not been told yet.")
        outbox.add_metric([], self._ledger.undelivered())
        yield from (depth, devices, searches, outbox)
