"""The gain of batches from buckets: the same bundle on them and on batches as examples come, call by call in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evaluators.backends.base import Arrays, Runner
from evaluators.bucketing import row_lengths
from evaluators.lengths import Buckets
from evaluators.outcome import Bucketing, Ratio
from evaluators.timing.blocks import Clock

ENOUGH_SECONDS, MOST_SECONDS, WARM_UP_SECONDS = 1.0, 8.0, 2.0
"""It ends with the first round of all batches after so long, and in the middle of one after the second; shapes that
were not seen yet are run once before, unless that takes longer than the third."""

LEAST_PAIRS = 4
RESAMPLES = 2000


def measure_bucketing(
    runner: Runner, plain: Sequence[Arrays], bucketed: Sequence[Arrays], buckets: Buckets,
    clock: Clock = time.perf_counter,
) -> Bucketing:  # fmt: skip
    """Time batches as they come and batches from buckets, and count what of them is filling."""
    pairs = time_in_turn(
        runner.run, [runner.prepare(batch) for batch in plain], [runner.prepare(batch) for batch in bucketed], clock
    )
    return Bucketing(
        edges=buckets.edges, padding_share=filling_share(bucketed, buckets),
        plain_padding_share=filling_share(plain, buckets), gain=ratio_of(*pairs),
    )  # fmt: skip


def time_in_turn(
    run: Callable[[Any], Any], plain: Sequence[Any], bucketed: Sequence[Any], clock: Clock = time.perf_counter
) -> tuple[list[list[float]], list[list[float]]]:
    """Return the seconds of each call of each batch of either kind; those that were never timed are left out."""
    begun = clock()
    for batch in plain:
        run(batch)
        if clock() - begun > WARM_UP_SECONDS:
            break
    seconds: tuple[list[list[float]], ...] = ([[] for _ in plain], [[] for _ in bucketed])
    begun, calls = clock(), 0
    while True:
        for kind, batches in enumerate((plain, bucketed)):
            number = calls % len(batches)
            before = clock()
            run(batches[number])
            seconds[kind][number].append(clock() - before)
        calls += 1
        elapsed, whole = clock() - begun, calls % max(len(plain), len(bucketed)) == 0
        if (whole and elapsed > ENOUGH_SECONDS) or (calls >= LEAST_PAIRS and elapsed > MOST_SECONDS):
            first, second = ([taken for taken in kind if taken] for kind in seconds)
            return first, second


def ratio_of(above: Sequence[Sequence[float]], below: Sequence[Sequence[float]]) -> Ratio:
    """Return the mean time of a batch of the first kind over that of the second.

    The interval resamples batches: which of them were met is chance, too.
    """
    ours, theirs = (np.array([np.median(taken) for taken in kind]) for kind in (above, below))
    draw = np.random.default_rng(0)
    means = [values[draw.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1) for values in (ours, theirs)]
    low, high = np.quantile(means[0] / means[1], (0.025, 0.975))
    return Ratio(value=round(float(ours.mean() / theirs.mean()), 4), ci95=(round(float(low), 4), round(float(high), 4)))


def filling_share(batches: Sequence[Arrays], buckets: Buckets) -> float:
    """Return the share of the positions of batches that are filling."""
    name, axis = next(iter(buckets.axes.items()))
    real = sum(int(row_lengths(batch, buckets).sum()) for batch in batches)
    positions = sum(int(len(batch[name]) * batch[name].shape[axis]) for batch in batches)
    return round(1 - real / positions, 4)
