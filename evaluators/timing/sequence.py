"""Sequence: a model timed in blocks, in turn with a reference, for as long as its verdict takes."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from evaluators.jobs import Protocol
from evaluators.outcome import Interval, LatencyEvidence, Ratio
from evaluators.statistics import (
    block_interval,
    confidence_per_look,
    decide,
    percentile,
    ratio_interval,
    samples_needed,
    supports_upper_bound,
)
from evaluators.timing.blocks import Block, Clock, Timed, WarmUp
from evaluators.timing.stand import StandDiedError

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}

REFERENCE_SHARE = 0.4
"""How long the reference is timed, against the model that is measured; drift is cancelled by far fewer calls."""
LEAST_PAIRS = 3
CLOSE = 0.1
"""Without a budget, timing ends where the bounds are this close to each other, relative to the lower one."""


@dataclass
class Trace:
    """Blocks in the order in which they were timed, and those of the reference that followed each of them."""

    blocks: list[Block] = field(default_factory=list)
    pairs: list[tuple[Block, Block]] = field(default_factory=list)
    polluted: list[Block] = field(default_factory=list)
    reference_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of the calls that count."""
        return sum(block.total for block in self.blocks)

    @property
    def polluted_seconds(self) -> float:
        """Seconds of the calls that were thrown away."""
        return sum(block.total for block in self.polluted)

    @property
    def samples(self) -> int:
        """How many calls count."""
        return sum(len(block.seconds) for block in self.blocks)

    def add(self, block: Block, reference: Block | None, max_foreign_load: float) -> None:
        """Keep a block, and the pair of it where neither was polluted."""
        if block.waited > max_foreign_load:
            self.polluted.append(block)
            return
        self.blocks.append(block)
        if reference is not None and reference.waited <= max_foreign_load:
            self.pairs.append((block, reference))


def time_bundle(
    model: Timed,
    reference: Timed | None,
    protocol: Protocol,
    budget_ms: float | None = None,
    load_seconds: float = 0.0,
    clock: Clock = time.perf_counter,
) -> LatencyEvidence:
    """Time single calls of ``model``, each with the whole batch, in turn with ``reference``.

    It looks at the trace after each of the protocol's ``looks`` and ends where the verdict against ``budget_ms`` is
    certain, and the machine would have to drift far for another one, or, without a budget, where the interval is
    narrow; at the last look in any case. Blocks in which other programs used the processor are timed again, until
    patience ends.
    """
    begun = clock()
    warm = model.warm_up()
    reference = _ready(reference)
    trace, early = Trace(), False
    gc.collect()
    for number, until in enumerate(protocol.looks, 1):
        last = number == len(protocol.looks)
        least = samples_needed(QUANTILES[protocol.percentile], confidence_of(protocol)) if last else 1
        while trace.seconds < until or trace.samples < least:
            reference = _time_both(trace, model, reference, protocol)
            if clock() - begun > protocol.patience_seconds or trace.polluted_seconds > protocol.pollution_seconds:
                last = True
                break
        early = not last and _certain(trace, protocol, budget_ms, margin_at(protocol, until))
        if last or early:
            break
    return summarize(trace, protocol, warm, clock() - begun, early=early, load_seconds=load_seconds)


def _time_both(trace: Trace, model: Timed, reference: Timed | None, protocol: Protocol) -> Timed | None:
    """Time a block of the model and, where it is due, one of the reference; return the reference if it still runs."""
    block, beside = model.block(protocol.block_seconds), None
    spent = trace.seconds + trace.polluted_seconds + block.total
    due = trace.reference_seconds <= REFERENCE_SHARE * spent or 0 < len(trace.blocks) <= LEAST_PAIRS
    if reference is not None and due:
        try:
            beside = reference.block(REFERENCE_SHARE * protocol.block_seconds)
            trace.reference_seconds += beside.total
        except StandDiedError:
            reference = None
    trace.add(block, beside, protocol.max_foreign_load)
    return reference


def _ready(reference: Timed | None) -> Timed | None:
    """Warm the reference up; one that cannot run is done without."""
    if reference is None:
        return None
    try:
        reference.warm_up()
    except StandDiedError:
        return None
    return reference


def _certain(trace: Trace, protocol: Protocol, budget_ms: float | None, margin: float) -> bool:
    """Whether the bounds lie on one side of the budget, clear of it by a share of it.

    Without a budget, whether they are close together.
    """
    if not trace.blocks:
        return False
    blocks = [block.seconds for block in trace.blocks]
    if budget_ms is None:
        (low, high), bounded = bounds_of(blocks, protocol)
        return bounded and high - low <= CLOSE * low
    quantile, looks = QUANTILES[protocol.percentile], len(protocol.looks)
    return decide(blocks, budget_ms / 1e3, quantile, protocol.confidence, looks, margin) != "undecided"


def bounds_of(blocks: Sequence[np.ndarray], protocol: Protocol) -> tuple[Interval, bool]:
    """Return one-sided bounds in ms, each at the confidence of the search over all looks together (Bonferroni).

    Also whether the upper one counts: whether there were calls enough for it.
    """
    quantile, confidence = QUANTILES[protocol.percentile], confidence_of(protocol)
    low, high = block_interval(blocks, quantile, confidence, one_sided=True)
    return (low * 1e3, high * 1e3), supports_upper_bound(blocks, quantile, confidence)


def summarize(
    trace: Trace, protocol: Protocol, warm: WarmUp, seconds: float, *, early: bool = False, load_seconds: float = 0.0,
    processes: int = 1,
) -> LatencyEvidence:  # fmt: skip
    """Draw percentiles, intervals and the speed-up over the reference from a trace."""
    quantile = QUANTILES[protocol.percentile]
    enough = trace.samples >= samples_needed(quantile) and trace.seconds >= protocol.looks[0]
    clean = not trace.polluted or enough
    blocks = [block.seconds for block in (trace.blocks if clean else [*trace.blocks, *trace.polluted])]
    samples_ms = np.concatenate(blocks) * 1e3
    low, high = block_interval(blocks, quantile)
    bounds, bounded = bounds_of(blocks, protocol)
    speedup = None
    if len(trace.pairs) >= LEAST_PAIRS:
        value, interval = ratio_interval([(ours.seconds, theirs.seconds) for ours, theirs in trace.pairs])
        speedup = Ratio(value=value, ci95=interval)
    found = {name: percentile(samples_ms, share) for name, share in QUANTILES.items()}
    return LatencyEvidence(
        percentile=protocol.percentile, p50=float(np.median(samples_ms)), p90=found["p90"], p95=found["p95"],
        p99=found["p99"], mean=float(samples_ms.mean()), ci95=(low * 1e3, high * 1e3),
        bounds=bounds, bounded=bounded, samples=len(samples_ms), warmup_calls=warm.calls, settled=warm.settled,
        processes=processes,
        polluted=len(trace.polluted), clean=clean, seconds=seconds, decided_early=early, speedup=speedup,
        load_seconds=load_seconds,
    )  # fmt: skip


def margin_at(protocol: Protocol, seconds: float) -> float:
    """Return how far from its limit a model must be, as a share of it, to be decided after so many seconds of calls."""
    return protocol.drift * (1 - seconds / protocol.looks[-1])


def confidence_of(protocol: Protocol) -> float:
    """Return the confidence of each look of a protocol for that of all together."""
    return confidence_per_look(protocol.confidence, len(protocol.looks))
