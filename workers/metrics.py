"""Metrics for Prometheus: what a worker or a coordinator counts, on an HTTP endpoint of its own."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evaluators.errors import UsageError
from evaluators.outcome import Outcome

STAGE_BUCKETS_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


class Metrics:
    """A ``Meter`` whose counts can be scraped.

    Raises:
        UsageError: prometheus-client is not installed.
    """

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError as error:
            raise UsageError("metrics need prometheus-client; pip install 'paretune[fleet]'") from error
        self.registry = CollectorRegistry()
        self._trials = Counter("paretune_trials", "Trials that have ended, by how, and why those that failed did.",
                               ("target", "outcome", "failure"), registry=self.registry)  # fmt: skip
        self._stages = Histogram("paretune_stage_seconds", "What the stages of trials took; cached ones took nothing.",
                                 ("target", "stage"), buckets=STAGE_BUCKETS_S, registry=self.registry)  # fmt: skip
        self._lost = Counter("paretune_leases_lost", "Leases of trials that were lost.", ("target",),
                             registry=self.registry)  # fmt: skip
        self._again = Counter("paretune_rung_again", "Trials that waited in vain and were rung for again.", ("target",),
                              registry=self.registry)  # fmt: skip
        self._busy = Gauge("paretune_device_busy", "Whether this worker's device has a trial.", ("target", "device"),
                           registry=self.registry)  # fmt: skip

    def ended(self, target: str, outcome: Outcome) -> None:
        """Count a trial that has ended, and the seconds of its stages."""
        failure = str(outcome.failure.kind) if outcome.failure else ""
        self._trials.labels(target, outcome.kind, failure).inc()
        for stage, seconds in outcome.stage_seconds.items():
            self._stages.labels(target, stage).observe(seconds)

    def lost(self, target: str, count: int = 1) -> None:
        """Count leases that were lost."""
        self._lost.labels(target).inc(count)

    def rung_again(self, target: str) -> None:
        """Count a trial that was rung for again."""
        self._again.labels(target).inc()

    def busy(self, target: str, device: str, is_busy: bool) -> None:
        """Say whether a device has a trial."""
        self._busy.labels(target, device).set(is_busy)

    def add(self, collector: Any) -> None:
        """Have a collector asked at each scrape as well."""
        self.registry.register(collector)

    @contextmanager
    def served(self, host: str, port: int) -> Iterator[int]:
        """Answer scrapes on ``/metrics`` while the block runs; yield the port, which the system chooses where it is 0.

        Raises:
            UsageError: nobody can listen there.
        """
        from prometheus_client import start_http_server

        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
            raise UsageError(f"port {port} on {host} {why}; choose another with --metrics-port") from None
        try:
            yield int(server.server_port)
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
