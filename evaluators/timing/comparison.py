"""Comparison: bundles timed in turn, block by block, in fresh processes of each for every round.

What drifts on the machine is common to all of a round, and what one process was dealt (where its memory lies) is
averaged over the rounds. Source of the plan: random interleaving as in Google Benchmark, and processes rather than
calls as the unit of repetition (Georges et al., Statistically Rigorous Java Performance Evaluation, OOPSLA 2007).
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol as Interface

import numpy as np

from evaluators.jobs import CompareJob, Comparison, Protocol
from evaluators.outcome import LatencyEvidence
from evaluators.timing.blocks import Block, Clock, Timed, WarmUp
from evaluators.timing.sequence import Trace, summarize
from evaluators.timing.stand import Stand, StandDiedError, StandRequest

BLOCKS = 4
"""Blocks of each model in one round."""
TRIES = 3
"""How often a polluted block is timed before it is counted as lost."""
LEAST_ROUNDS = 3


class Standing(Timed, Interface):
    """A model in a process of its own."""

    def close(self) -> None:
        """End it."""


class Contender:
    """What was seen of one bundle, round by round, until its process died."""

    def __init__(self, start: Callable[[], Standing], clock: Clock) -> None:
        self._start = start
        self._clock = clock
        self._stand: Standing | None = None
        self._rounds: list[list[Block]] = []
        self._polluted: list[Block] = []
        self._warm = WarmUp(0, settled=True, call_seconds=0.0)
        self.seconds = 0.0

    def open(self, stack: ExitStack) -> None:
        """Begin a round in a fresh process."""
        self._rounds.append([])
        self._stand = self._start()
        stack.callback(self._stand.close)

    def warm_up(self) -> None:
        """Load and warm the process of this round."""
        if self._stand is None:
            return
        with self._watched():
            found = self._stand.warm_up()
            settled = self._warm.settled and found.settled
            self._warm = WarmUp(self._warm.calls + found.calls, settled, found.call_seconds)

    def time_block(self, protocol: Protocol) -> None:
        """Time a block, again where it was polluted."""
        if self._stand is None:
            return
        with self._watched():
            for _ in range(TRIES):
                block = self._stand.block(protocol.block_seconds)
                if block.waited <= protocol.max_foreign_load:
                    self._rounds[-1].append(block)
                    break
                self._polluted.append(block)

    @property
    def alive(self) -> bool:
        """Whether its process of this round still answers."""
        return self._stand is not None

    def latency(self, protocol: Protocol) -> LatencyEvidence | None:
        """Return the evidence of all rounds together; null if it died or nothing was timed."""
        rounds = [Block(np.concatenate([block.seconds for block in found]), 0.0) for found in self._rounds if found]
        if not self.alive or not (rounds or self._polluted):
            return None
        trace = Trace(blocks=rounds, polluted=self._polluted)
        return summarize(trace, protocol, self._warm, self.seconds, processes=len(self._rounds))

    def log_medians(self) -> tuple[float | None, ...]:
        """Return the logarithm of the p50 in ms of every round, null where nothing of it is clean."""
        return tuple(
            math.log(float(np.median(np.concatenate([block.seconds for block in found]))) * 1e3) if found else None
            for found in self._rounds
        )

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
    """Time what ``starts`` start, in turn, for the protocol's rounds; after ``seconds`` with the rounds done so far."""
    contenders = [Contender(start, clock) for start in starts]
    begun = clock()
    for number in range(protocol.rounds):
        took = (clock() - begun) / number if number else 0.0
        if number >= LEAST_ROUNDS and clock() - begun + took > seconds:
            break
        _round([contender for contender in contenders if contender.alive or not number], number, protocol)
    return Comparison(
        latencies=tuple(contender.latency(protocol) for contender in contenders),
        log_medians=tuple(contender.log_medians() for contender in contenders),
        seconds=tuple(contender.seconds for contender in contenders),
    )


def compare_bundles(job: CompareJob) -> Comparison:
    """Run a comparison of built bundles."""

    def starter(bundle: str) -> Callable[[], Standing]:
        return lambda: Stand(StandRequest(workload=job.profile.reference, bundle=bundle))

    return compare([starter(bundle) for bundle in job.bundles], job.protocol, job.seconds)


def _round(contenders: Sequence[Contender], number: int, protocol: Protocol) -> None:
    """Start each contender afresh and time its blocks in turn: another one first each round, back and forth."""
    first = number % max(1, len(contenders))
    order = [*contenders[first:], *contenders[:first]]
    with ExitStack() as stack:
        for contender in order:
            contender.open(stack)
        for contender in order:
            contender.warm_up()
        for turn in range(BLOCKS):
            for contender in order if turn % 2 == 0 else order[::-1]:
                contender.time_block(protocol)
