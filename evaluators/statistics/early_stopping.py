"""When enough calls were timed to say that a percentile is within its limit, or that it is not."""

from __future__ import annotations

from typing import Literal

import numpy as np

from evaluators.statistics.blocks import block_interval, supports_upper_bound
from evaluators.statistics.dependence import Blocks
from evaluators.statistics.quantiles import CONFIDENCE, samples_needed

Decision = Literal["pass", "fail", "undecided"]


def least_calls(over: int, quantile: float, confidence: float = CONFIDENCE) -> int:
    """Return the fewest independent calls of which ``over`` may exceed a limit that the quantile is proved to keep.

    Were the quantile at its limit or above, at most ``over`` exceedances among so many calls would have a probability
    of at most ``1 - confidence``. Source: the early-stopping criterion of MLPerf LoadGen (inference rules, appendix
    "Early stopping", tolerance d = 0), by the regularized incomplete beta function.
    """
    from scipy.special import betainc

    low, high = over, max(2 * over, samples_needed(quantile, confidence))
    while betainc(high - over, over + 1, quantile) > 1 - confidence:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        enough = betainc(middle - over, over + 1, quantile) <= 1 - confidence
        low, high = (low, middle) if enough else (middle, high)
    return high


def decide(
    blocks: Blocks | np.ndarray, limit: float, quantile: float, confidence: float = CONFIDENCE, looks: int = 1,
    margin: float = 0.0,
) -> Decision:  # fmt: skip
    """Say whether the quantile is at most ``limit``, at one of ``looks`` looks at a growing trace.

    It is where the one-sided bounds of the quantile lie on one side of the limit; for independent calls that is the
    criterion of ``least_calls``. A system exactly at its limit gets a wrong "pass" at any look with a probability of
    at most ``1 - confidence``, and likewise a wrong "fail": each look spends an equal part of it (Bonferroni), so that
    looks may come at any time.

    Args:
        blocks: the trace so far, in order of time; an array is one block.
        limit: in the unit of the samples.
        margin: the bounds must be clear of the limit by this share of it.
    """
    trace = [block for block in ([blocks] if isinstance(blocks, np.ndarray) else blocks) if len(block)]
    if not trace:
        return "undecided"
    each = confidence_per_look(confidence, looks)
    low, high = block_interval(trace, quantile, each, one_sided=True)
    if low > limit * (1 + margin):
        return "fail"
    return "pass" if high <= limit * (1 - margin) and supports_upper_bound(trace, quantile, each) else "undecided"


def confidence_per_look(confidence: float, looks: int) -> float:
    """Return the confidence of each look for that of all together."""
    return 1 - (1 - confidence) / looks
