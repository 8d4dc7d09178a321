"""Instance: a process that holds one loaded bundle and runs the requests of a shared queue, batch by batch.

Also a program, ``python -m evaluators.traffic.instance DESCRIPTOR``, for systems where the process cannot fork, and for
bundles that run in another interpreter. Only plain values go to and fro.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from evaluators.backends.base import Runner
from evaluators.bucketing import trimmed
from evaluators.bundle import open_bundle
from evaluators.frozen import Frozen
from evaluators.interpreter import Interpreter
from evaluators.lengths import Buckets
from evaluators.registry import backend
from evaluators.timing.blocks import LocalCalls
from evaluators.timing.child import Child, exit_after, told_over
from evaluators.timing.contention import usage
from evaluators.traffic.queue import SharedHead
from evaluators.traffic.window import Batch, Batching, next_batch

SPIN_SECONDS = 2e-4
"""A process sleeps until shortly before a batch leaves, and then looks at the clock: sleeping alone ends too late."""
SERVICE_SECONDS = 0.3
END = "end"


class InstanceDiedError(Exception):
    """The process of an instance ended or failed; the message says how."""


class InstanceRequest(Frozen):
    """What an instance loads: a bundle, rows of its inputs (``.npz``, an array for each), and the queue.

    ``trusted`` and ``other_target`` are as for ``open_bundle``.
    """

    bundle: str
    rows: str
    queue: str
    trusted: bool | str = False
    other_target: bool = False


class Served(NamedTuple):
    """A batch that was run: it began and ended at these times of the test, and the runtime's own call took so long."""

    first: int
    last: int
    at: float
    end: float
    call_s: float


class InstanceRun(NamedTuple):
    """What one instance did in a test: batches, and seconds its threads ran, waited, and all processors were busy.

    The last two are None where the system does not count them.
    """

    served: list[Served]
    running: float
    waiting: float | None
    busy: float | None


class Answering:
    """A loaded bundle that answers requests, each of them a row of the inputs."""

    def __init__(
        self, runner: Runner, rows: dict[str, np.ndarray], batch_size: int, buckets: Buckets | None = None
    ) -> None:
        self._runner, self._rows, self._batch_size, self._buckets = runner, rows, batch_size, buckets
        self._count = len(next(iter(rows.values())))

    def __call__(self, batch: range) -> float:
        """Answer these requests with one call, filled up to the bundle's batch size; return the seconds of the call."""
        chosen = np.minimum(np.arange(batch.start, batch.start + self._batch_size), batch.stop - 1) % self._count
        arrays = {name: array[chosen] for name, array in self._rows.items()}
        prepared = self._runner.prepare(arrays if self._buckets is None else trimmed(arrays, self._buckets))
        begun = time.perf_counter()
        raw = self._runner.run(prepared)
        took = time.perf_counter() - begun
        self._runner.outputs(raw)
        return took


def load(request: InstanceRequest) -> tuple[Answering, int]:
    """Load a bundle in this process; return what answers, and the bundle's batch size.

    Raises:
        IntegrityError: it is refused.
    """
    folder = Path(request.bundle)
    manifest = open_bundle(folder, trusted=request.trusted, other_target=request.other_target)
    runner = backend(manifest.candidate.backend).load(folder, manifest)
    with np.load(request.rows, allow_pickle=False) as stored:
        rows = {name: stored[name] for name in stored.files}
    return Answering(runner, rows, manifest.candidate.batch_size, manifest.buckets), manifest.candidate.batch_size


def wait_until(moment: float, clock: Callable[[], float] = time.monotonic) -> None:
    """Return at ``moment`` of the clock, as exactly as a program can."""
    if (left := moment - clock() - SPIN_SECONDS) > 0:
        time.sleep(left)
    while clock() < moment:
        pass


def serve_requests(
    answer: Callable[[range], float], queue: SharedHead, arrivals: Sequence[float], batching: Batching, begin: float
) -> list[Served]:
    """Run batches until no request is left; ``begin`` is the moment of ``time.monotonic`` at which arrivals count from.

    Requests are there from the moment of their arrival on: nobody sends them, so nothing makes them late.
    """
    served: list[Served] = []
    chosen = Batch(0, 0, 0, 0.0)

    def choose(head: int) -> int:
        nonlocal chosen
        chosen = next_batch(arrivals, head, time.monotonic() - begin, batching)
        return chosen.last

    while True:
        queue.advance(choose)
        if not chosen.size:
            return served
        wait_until(begin + chosen.at)
        call_s = answer(range(chosen.first, chosen.last))
        served.append(Served(chosen.first, chosen.last, chosen.at, time.monotonic() - begin, call_s))


class Instance:
    """The process of an instance. It starts empty, so that it can be started before anything is loaded anywhere.

    Every method raises InstanceDiedError where the process failed. It is a program of ``interpreter`` where one is
    given.
    """

    def __init__(self, interpreter: Interpreter | None = None) -> None:
        self._child = Child("evaluators.traffic.instance", serve_and_exit, interpreter)
        self._link = self._child.link

    def load(self, request: InstanceRequest) -> None:
        """Load a bundle and warm it up."""
        self._ask("load", request.model_dump_json())

    def service_seconds(self) -> list[float]:
        """Return how long batches take, copies in and out included."""
        found: list[float] = self._ask("service", SERVICE_SECONDS)
        return found

    def begin(self, arrivals: list[float], batching: Batching, moment: float) -> None:
        """Have it run requests, whose arrivals count from ``moment`` of ``time.monotonic`` on; ``finish`` waits."""
        self._tell(("run", (arrivals, tuple(batching), moment)))

    def finish(self) -> InstanceRun:
        """Return what it did once no request is left."""
        served, *used = self._answer()
        return InstanceRun([Served(*batch) for batch in served], *used)

    def close(self) -> None:
        """End the process. It is told so: those that were started later hold a copy of this end of its pipe."""
        with suppress(OSError):
            self._link.send((END, None))
        self._child.wait()

    def _ask(self, verb: str, what: Any) -> Any:
        self._tell((verb, what))
        return self._answer()

    def _tell(self, message: Any) -> None:
        try:
            self._link.send(message)
        except OSError as error:
            raise InstanceDiedError("a process that serves a bundle ended by itself") from error

    def _answer(self) -> Any:
        try:
            found = self._link.recv()
        except (OSError, EOFError) as error:
            raise InstanceDiedError("a process that serves a bundle ended by itself") from error
        if isinstance(found, str):
            raise InstanceDiedError(found)
        return found


class _Loaded:
    """A bundle that is loaded and warm."""

    def __init__(self, request: InstanceRequest) -> None:
        self._answer, size = load(request)
        self._queue = SharedHead(Path(request.queue))
        self._calls = LocalCalls(self._answer, [range(start, start + size) for start in range(0, 16 * size, size)])
        self._calls.warm_up()

    def service_seconds(self, seconds: float) -> list[float]:
        found: list[float] = self._calls.block(seconds).seconds.tolist()
        return found

    def run(self, arrivals: list[float], batching: Batching, moment: float) -> Any:
        gc.collect()
        gc.disable()
        try:
            self._answer(range(1))
            before = usage()
            served = serve_requests(self._answer, self._queue, arrivals, batching, moment)
            after = usage()
        finally:
            gc.enable()
        waiting = None if before.waiting is None or after.waiting is None else after.waiting - before.waiting
        busy = None if before.busy is None or after.busy is None else after.busy - before.busy
        return [tuple(batch) for batch in served], after.running - before.running, waiting, busy


def serve(link: Connection) -> None:
    """Do what comes over the link until the end; a bundle comes first. A failure is told as a text and ends it."""
    with told_over(link):
        verb, what = link.recv()
        if verb == END:
            return
        loaded = _Loaded(InstanceRequest.model_validate_json(what))
        link.send(None)
        while True:
            verb, what = link.recv()
            if verb == END:
                return
            if verb == "service":
                link.send(loaded.service_seconds(what))
            else:
                arrivals, batching, moment = what
                link.send(loaded.run(arrivals, Batching(*batching), moment))


def serve_and_exit(link: Connection) -> NoReturn:
    """Serve as a process of its own that never returns to what forked it."""
    exit_after(partial(serve, link))


if __name__ == "__main__":
    serve_and_exit(Connection(int(sys.argv[1])))
