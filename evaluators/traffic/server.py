"""BundleServer: a bundle behind a batching window, run by processes that share one queue; no network is involved."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from evaluators.interpreter import Interpreter
from evaluators.traffic.instance import Instance, InstanceRequest
from evaluators.traffic.observed import Observed, observed_of
from evaluators.traffic.queue import SharedHead
from evaluators.traffic.window import Batching

AHEAD_SECONDS = 0.2
"""A test begins so much later than it is announced, so that every instance has heard of it."""


class BundleServer:
    """Loaded instances of one bundle; ``batching`` and how many of them take part may change between tests."""

    def __init__(self, instances: Sequence[Instance], request: InstanceRequest, batching: Batching) -> None:
        self._started, self._request, self._loaded = instances, request, 0
        self.batching = batching
        self.instances = 1

    def load(self, instances: int) -> None:
        """Have so many instances loaded and warm, and take part in the tests that follow.

        Raises:
            InstanceDiedError: one of them could not load the bundle, or run it.
        """
        for instance in self._started[self._loaded : instances]:
            instance.load(self._request)
        self._loaded = max(self._loaded, instances)
        self.instances = instances

    def service_seconds(self) -> list[float]:
        """Return how long batches take in the first instance, copies in and out included.

        Raises:
            InstanceDiedError: it failed.
        """
        return self._started[0].service_seconds()

    def run(self, arrivals: list[float], timeout_s: float) -> Observed:
        """Serve requests at these times.

        Raises:
            InstanceDiedError: a process failed.
        """
        batching = self.batching._replace(timeout_s=timeout_s)
        with SharedHead(Path(self._request.queue)) as queue:
            queue.reset()
        moment = time.monotonic() + AHEAD_SECONDS
        taking_part = self._started[: self.instances]
        for instance in taking_part:
            instance.begin(arrivals, batching, moment)
        return observed_of([instance.finish() for instance in taking_part], arrivals, batching)


@contextmanager
def started(count: int, interpreter: Interpreter | None = None) -> Iterator[list[Instance]]:
    """Start processes for so many instances, and end them after the block.

    They fork where that is possible, so begin before any runtime has started threads.
    """
    instances: list[Instance] = []
    try:
        for _ in range(count):
            instances.append(Instance(interpreter))
        yield instances
    finally:
        for instance in instances:
            instance.close()
