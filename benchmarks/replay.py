"""A measurement that is kept block by block, and judged again by another protocol from the same calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import NamedTuple, TypeVar

from evaluators.jobs import Protocol
from evaluators.outcome import LatencyEvidence
from evaluators.timing.blocks import Block, Timed, WarmUp
from evaluators.timing.sequence import time_bundle

T = TypeVar("T", WarmUp, Block)


class Twice(NamedTuple):
    """One trace under two protocols; ``seconds`` of each are those that its blocks and warm-ups took when timed."""

    fixed: LatencyEvidence
    sequential: LatencyEvidence


@dataclass
class Recorder:
    """Times a model and keeps what was found, with the time at which it was known."""

    timed: Timed
    kept: list[tuple[float, WarmUp | Block]] = field(default_factory=list)

    def warm_up(self) -> WarmUp:
        return self._keep(self.timed.warm_up())

    def block(self, seconds: float) -> Block:
        return self._keep(self.timed.block(seconds))

    def _keep(self, found: T) -> T:
        self.kept.append((perf_counter(), found))
        return found


class Tape:
    """Gives back what a recorder kept, in order; ``now`` is when the last piece given was known."""

    def __init__(self, begun: float) -> None:
        self.now = begun

    def clock(self) -> float:
        return self.now

    def play(self, recorder: Recorder) -> Played:
        return Played(self, iter(recorder.kept))


@dataclass
class Played:
    """A model whose calls were timed before."""

    tape: Tape
    kept: Iterator[tuple[float, WarmUp | Block]]

    def warm_up(self) -> WarmUp:
        found = self._next()
        assert isinstance(found, WarmUp)
        return found

    def block(self, seconds: float) -> Block:
        found = self._next()
        assert isinstance(found, Block)
        return found

    def _next(self) -> WarmUp | Block:
        self.tape.now, found = next(self.kept)
        return found


def time_twice(model: Timed, reference: Timed | None, protocol: Protocol, budget_ms: float) -> Twice:
    """Time a model by a protocol whose only look is its last, then ask what its looks would have said meanwhile.

    Which of the two is timed next does not depend on the looks, so the early ones see the beginning of the same trace.
    """
    recorders = Recorder(model), None if reference is None else Recorder(reference)
    begun = perf_counter()
    last = protocol.model_copy(update={"looks": protocol.looks[-1:]})
    fixed = time_bundle(recorders[0], recorders[1], last, budget_ms)
    tape = Tape(begun)
    played = [None if recorder is None else tape.play(recorder) for recorder in recorders]
    assert played[0] is not None
    sequential = time_bundle(played[0], played[1], protocol, budget_ms, clock=tape.clock)
    return Twice(fixed, sequential)


def time_bundle_twice(bundle: str, workload: str, protocol: Protocol, budget_ms: float) -> Twice:
    """Load a bundle in this process as a trial does, with the original model beside it, and time it."""
    from evaluators import registry
    from evaluators.batching import as_arrays
    from evaluators.bundle import open_bundle
    from evaluators.timing.blocks import LocalCalls
    from evaluators.timing.stand import Stand, StandRequest, real_batches
    from evaluators.workload import load_workload

    folder = Path(bundle)
    candidate = open_bundle(folder, trusted=True).candidate
    request = StandRequest(workload=workload, batch_size=candidate.batch_size, threads=candidate.runtime.threads)
    with Stand(request) as original:
        runner = registry.backend(candidate.backend).load(folder, open_bundle(folder, trusted=True))
        inputs = real_batches(load_workload(workload), candidate.batch_size)
        calls = LocalCalls(runner.run, [runner.prepare(as_arrays(one)) for one in inputs])
        return time_twice(calls, original, protocol, budget_ms)
