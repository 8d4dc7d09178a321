"""Stand: a process of its own that holds one loaded model and times blocks of its calls when it is told to.

Also a program, ``python -m evaluators.timing.stand DESCRIPTOR``, for systems where torch's process cannot fork, and for
models that run in another interpreter. Only plain values go to and fro: the two sides may have other versions of NumPy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from evaluators.batching import as_arrays, example_batches, first_rows
from evaluators.bucketing import batch_of, joined, planned, row_lengths, spread
from evaluators.bundle import Manifest, open_bundle
from evaluators.frozen import Frozen
from evaluators.interpreter import Interpreter
from evaluators.registry import backend
from evaluators.stages.restore import build_model
from evaluators.structure import call
from evaluators.timing.blocks import Block, LocalCalls, WarmUp
from evaluators.timing.child import Child, exit_after, told_over
from evaluators.workload import Workload, load_workload

LATENCY_BATCHES = 16
POOLED_BATCHES = 64
"""Of the examples of so many batches, batches are drawn from buckets."""

END = "end"
"""Ends a stand; what else is sent to one is a request, and then numbers and None."""


class StandDiedError(Exception):
    """The process of a stand ended or failed; the message says how."""


class StandRequest(Frozen):
    """What a stand loads: a bundle or, without one, the original model on torch as it is, for so many examples."""

    workload: str
    bundle: str | None = None
    batch_size: int = 1
    threads: int = 1


def load(request: StandRequest) -> LocalCalls:
    """Load what ``request`` names, with real validation batches, in this process."""
    workload = load_workload(request.workload)
    if request.bundle is None:
        return LocalCalls(_original(workload, request.threads), real_batches(workload, request.batch_size))
    folder = Path(request.bundle)
    manifest = open_bundle(folder, trusted=True)  # measured in this home before it is compared
    runner = backend(manifest.candidate.backend).load(folder, manifest)
    batches = [runner.prepare(batch) for batch in served_batches(workload, manifest)]
    begin = os.getpid() % len(batches) if manifest.buckets else 0  # a round of few calls meets other buckets each time
    return LocalCalls(runner.run, [*batches[begin:], *batches[:begin]])


def real_batches(workload: Workload, batch_size: int, count: int = LATENCY_BATCHES) -> list[Any]:
    """Return the first batches of validation, in the user's own structure."""
    source = example_batches(workload.validation(), workload.collate, batch_size)
    return [inputs for inputs, _, _ in islice(source, count)]


def served_batches(workload: Workload, manifest: Manifest, count: int = LATENCY_BATCHES) -> list[dict[str, np.ndarray]]:
    """Return batches of validation as the bundle is served: the first ones, or some of all its buckets that stand for
    the first 64 batches."""
    size, buckets = manifest.candidate.batch_size, manifest.buckets
    if buckets is None:
        return [as_arrays(inputs) for inputs in real_batches(workload, size, count)]
    source = example_batches(workload.validation(), workload.collate, size)
    rows = joined([first_rows(as_arrays(inputs), real) for inputs, _, real in islice(source, POOLED_BATCHES)], buckets)
    batches = planned(row_lengths(rows, buckets), buckets.edges, size)
    return [batch_of(rows, batch, size, buckets) for batch in spread(batches, count)]


def _original(workload: Workload, threads: int) -> Callable[[Any], Any]:
    import torch

    torch.set_num_threads(threads)
    model = build_model(workload)

    def run(inputs: Any) -> Any:
        with torch.inference_mode():
            return call(model, inputs)

    return run


Loader = Callable[[StandRequest], LocalCalls]


class LinkedStand:
    """A stand at the other end of a link, whoever keeps its process."""

    def __init__(self, link: Connection, request: StandRequest) -> None:
        self._link = link
        self._tell(request.model_dump_json())

    def warm_up(self) -> WarmUp:
        """Load the model if that has not happened, and call it until calls take equally long.

        Raises:
            StandDiedError: it could not be loaded or run.
        """
        return WarmUp(*self._ask(None))

    def block(self, seconds: float) -> Block:
        """Time calls for so long.

        Raises:
            StandDiedError: the process is gone.
        """
        samples, waited = self._ask(seconds)
        return Block(np.array(samples), waited)

    def close(self) -> None:
        """End the process."""
        self._tell(END)

    def _tell(self, message: str) -> None:
        # A process that is gone is found out when it is asked.
        with suppress(OSError):
            self._link.send(message)

    def _ask(self, command: float | None) -> Any:
        try:
            self._link.send(command)
            answer = self._link.recv()
        except (OSError, EOFError) as error:
            raise StandDiedError("a process that timed calls ended by itself") from error
        if isinstance(answer, str):
            raise StandDiedError(answer)
        return answer


class Stand(LinkedStand):
    """The process; it loads at the first command, so that stands can be started early and loaded in turn.

    ``loader`` is for those who want something else loaded; it counts only where the process is a fork. The process is
    a program of ``interpreter`` where one is given.
    """

    def __init__(self, request: StandRequest, loader: Loader = load, *, interpreter: Interpreter | None = None) -> None:
        self._child = Child("evaluators.timing.stand", partial(serve_and_exit, loader=loader), interpreter)
        super().__init__(self._child.link, request)

    def close(self) -> None:
        """End the process. It is told so: stands that were started later hold a copy of this end of its pipe."""
        super().close()
        self._child.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def serve(link: Connection, loader: Loader = load, request: str | None = None) -> None:
    """Answer commands until the end: None to warm up, a number of seconds to time a block.

    What to load comes first over the link, or was read from there already: ``request``, as JSON.
    """
    with told_over(link):
        wanted = StandRequest.model_validate_json(link.recv() if request is None else request)
        calls: LocalCalls | None = None
        while True:
            command = link.recv()
            if command == END:
                return
            calls = calls or loader(wanted)
            if command is None:
                warm = calls.warm_up()
                link.send((warm.calls, warm.settled, warm.call_seconds))
            else:
                block = calls.block(command)
                link.send((block.seconds.tolist(), float(block.waited)))


def serve_and_exit(link: Connection, loader: Loader = load, request: str | None = None) -> NoReturn:
    """Serve as a process of its own that never returns to what forked it."""
    exit_after(partial(serve, link, loader, request))


if __name__ == "__main__":
    serve_and_exit(Connection(int(sys.argv[1])))
