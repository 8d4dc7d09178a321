"""Comparison: bundles timed in turn, a few calls each, in fresh processes of each for every round.

What drifts on the machine is common to the bundles of one turn and is taken out, and what one process was dealt (where
its memory lies) is averaged over the rounds. Source of the plan: random interleaving as in Google Benchmark, and
processes rather than calls as the unit of repetition (Georges et al., Statistically Rigorous Java Performance
Evaluation, OOPSLA 2007).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol as Interface

import numpy as np

from evaluators.bundle import read_manifest
from evaluators.interpreter import Interpreter
from evaluators.jobs import CompareJob, Comparison, Protocol
from evaluators.outcome import LatencyEvidence
from evaluators.statistics import compare_rounds, different
from evaluators.timing.blocks import Block, Clock, Timed, WarmUp
from evaluators.timing.child import may_fork
from evaluators.timing.nursery import Nursery
from evaluators.timing.sequence import Trace, summarize
from evaluators.timing.stand import Stand, StandDiedError, StandRequest

ROUND_SECONDS = 0.2
"""How long each model is timed in one round."""
TURNS = (4, 40)
"""The least and the most of them in one round."""
TRIES = 3
"""How often a polluted block is timed before it is counted as lost."""
LEAST_ROUNDS = 3
SWEEPS = 8


class Standing(Timed, Interface):
    """A model in a process of its own."""

    def close(self) -> None:
        """End it."""


class Contender:
    """What was seen of one bundle, round by round and turn by turn, until its process died."""

    def __init__(self, start: Callable[[], Standing], clock: Clock) -> None:
        self._start = start
        self._clock = clock
        self._stand: Standing | None = None
        self._rounds: list[list[Block | None]] = []
        self._polluted: list[Block] = []
        self._warm = WarmUp(0, settled=True, call_seconds=0.0)
        self.seconds = 0.0

    def open(self, stack: ExitStack) -> None:
        """Begin a round in a fresh process."""
        self._rounds.append([])
        self._stand = self._start()
        stack.callback(self._stand.close)

    def warm_up(self) -> float:
        """Load and warm the process of this round; return the seconds of a call, 0 where it died."""
        if self._stand is None:
            return 0.0
        with self._watched():
            found = self._stand.warm_up()
            settled = self._warm.settled and found.settled
            self._warm = WarmUp(self._warm.calls + found.calls, settled, found.call_seconds)
        return self._warm.call_seconds if self.alive else 0.0

    def take_turn(self, protocol: Protocol) -> None:
        """Time a few calls, again where they were polluted."""
        if self._stand is None:
            return
        with self._watched():
            for _ in range(TRIES):
                block = self._stand.block(protocol.turn_seconds)
                if block.waited <= protocol.max_foreign_load:
                    self._rounds[-1].append(block)
                    return
                self._polluted.append(block)
            self._rounds[-1].append(None)

    @property
    def alive(self) -> bool:
        """Whether its process of this round still answers."""
        return self._stand is not None

    def latency(self, protocol: Protocol) -> LatencyEvidence | None:
        """Return the evidence of all rounds together; null if it died or nothing was timed."""
        clean = [[block.seconds for block in found if block is not None] for found in self._rounds]
        rounds = [Block(np.concatenate(found), 0.0) for found in clean if found]
        if not self.alive or not (rounds or self._polluted):
            return None
        trace = Trace(blocks=rounds, polluted=self._polluted)
        return summarize(trace, protocol, self._warm, self.seconds, processes=len(self._rounds))

    def turns(self, number: int) -> list[float]:
        """Return the logarithm of the p50 in ms of each turn of a round, NaN where it is not clean."""
        found = self._rounds[number] if number < len(self._rounds) else []
        return [math.nan if block is None else math.log(float(np.median(block.seconds)) * 1e3) for block in found]

    @contextmanager
    def _watched(self) -> Iterator[None]:
        begun = self._clock()
        try:
            yield
        except StandDiedError as error:
            print(f"a bundle was left out of the comparison: {error}", file=sys.stderr)
            self._stand = None
        self.seconds += self._clock() - begun


def compare(
    starts: Sequence[Callable[[], Standing]],
    protocol: Protocol,
    seconds: float,
    clock: Clock = time.perf_counter,
) -> Comparison:
    """Time what ``starts`` start, in turn, until they are told apart or the protocol's rounds are done.

    After ``seconds`` it ends with the rounds done so far, at least three.
    """
    contenders = [Contender(start, clock) for start in starts]
    begun, levels = clock(), list[tuple[float | None, ...]]()
    for number in range(max(protocol.rounds, protocol.most_rounds)):
        took = (clock() - begun) / number if number else 0.0
        if number >= LEAST_ROUNDS and clock() - begun + took > seconds:
            break
        if number >= protocol.rounds and _told_apart(levels, protocol.precision):
            break
        _round([contender for contender in contenders if contender.alive or not number], number, protocol)
        levels.append(levels_of([contender.turns(number) for contender in contenders]))
    return Comparison(
        latencies=tuple(contender.latency(protocol) for contender in contenders),
        log_medians=tuple(zip(*levels, strict=True)),
        seconds=tuple(contender.seconds for contender in contenders),
    )


def levels_of(turns: Sequence[Sequence[float]]) -> tuple[float | None, ...]:
    """Return the level of each model in one round, with what is common to a turn taken out; None without a turn.

    Source: median polish of the table of models and turns, Tukey, Exploratory Data Analysis, 1977, chapter 11. Of two
    models, the levels differ by the median of the differences in each turn.

    Args:
        turns: logarithm of each model's p50 in each turn, NaN where it was not timed; unequal lengths allowed.
    """
    width = max((len(one) for one in turns), default=0)
    table = np.array([[*one, *[math.nan] * (width - len(one))] for one in turns], dtype=float)
    seen = ~np.isnan(table).all(axis=1) if width else np.zeros(len(turns), dtype=bool)
    if not seen.any():
        return (None,) * len(turns)
    kept = table[seen][:, ~np.isnan(table[seen]).all(axis=0)]
    drift = np.zeros(kept.shape[1])
    for _ in range(SWEEPS):
        level = np.nanmedian(kept - drift, axis=1)
        drift = np.nanmedian(kept - level[:, None], axis=0)
    level = np.nanmedian(kept - drift, axis=1) + float(np.median(drift))
    found = iter(level.tolist())
    return tuple(next(found) if there else None for there in seen)


def _told_apart(levels: Sequence[Sequence[float | None]], precision: float) -> bool:
    """Whether each model is surely another than the first in speed, or its ratio to that is known well enough."""
    for other in range(1, len(levels[0])):
        ratios = [one[other] - one[0] for one in levels if one[0] is not None and one[other] is not None]  # type: ignore[operator]
        if len(ratios) < LEAST_ROUNDS:
            continue
        interval = compare_rounds(ratios)[1]
        if not different(interval) and math.log(interval[1] / interval[0]) / 2 > precision:
            return False
    return True


def compare_bundles(job: CompareJob) -> Comparison:
    """Run a comparison of built bundles."""

    def starter(bundle: str, nurseries: ExitStack) -> Callable[[], Standing]:
        request = StandRequest(workload=job.profile.reference, bundle=bundle)
        interpreter = _interpreter_of(bundle, job)
        if interpreter is None:
            return lambda: Stand(request)
        if not may_fork():
            return lambda: Stand(request, interpreter=interpreter)
        nursery = nurseries.enter_context(Nursery(interpreter))
        return lambda: nursery.stand(request)

    with ExitStack() as nurseries:
        starts = [starter(bundle, nurseries) for bundle in job.bundles]
        return compare(starts, job.protocol, job.seconds)


def _interpreter_of(bundle: str, job: CompareJob) -> Interpreter | None:
    if not job.interpreters:
        return None
    return job.interpreters.get(read_manifest(Path(bundle), verify=False).candidate.backend)


def _round(contenders: Sequence[Contender], number: int, protocol: Protocol) -> None:
    """Start each contender afresh and let them take turns: another one first each round, back and forth."""
    first = number % max(1, len(contenders))
    order = [*contenders[first:], *contenders[:first]]
    with ExitStack() as stack:
        for contender in order:
            contender.open(stack)
        call_seconds = max((contender.warm_up() for contender in order), default=0.0)
        for turn in range(turns_of(call_seconds, protocol)):
            for contender in order if turn % 2 == 0 else order[::-1]:
                contender.take_turn(protocol)


def turns_of(call_seconds: float, protocol: Protocol) -> int:
    """Return how many turns a round has, whose longest call takes so long."""
    return int(np.clip(ROUND_SECONDS / max(protocol.turn_seconds, call_seconds), *TURNS))
