"""When enough calls were timed to say that a percentile is within its limit, or that it is not."""

from __future__ import annotations

from typing import Literal

import numpy as np

from evaluators.statistics.dependence import Blocks, prudent_calls
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
    blocks: Blocks | np.ndarray, limit: float, quantile: float, confidence: float = CONFIDENCE, looks: int = 1
) -> Decision:
    """Say whether the quantile is at most ``limit``, at one of ``looks`` looks at a growing trace.

    A system exactly at its limit gets a wrong "pass" at any look with a probability of at most ``1 - confidence``, and
    likewise a wrong "fail": each look spends an equal part of it (Bonferroni), so that looks may come at any time.
    Calls that resemble their neighbours count as the fewer independent ones that they are worth.

    Args:
        blocks: the trace so far, in order of time; an array is one block.
        limit: in the unit of the samples.
    """
    from scipy.special import betainc

    trace = [block for block in ([blocks] if isinstance(blocks, np.ndarray) else blocks) if len(block)]
    if not trace:
        return "undecided"
    calls = sum(len(block) for block in trace)
    tail = (1 - confidence) / looks
    worth = prudent_calls(trace, quantile, tail)
    over = sum(int(np.count_nonzero(block > limit)) for block in trace) * worth / calls
    if over < worth and betainc(worth - over, over + 1, quantile) <= tail:
        return "pass"
    if over > 0 and betainc(over, worth - over + 1, 1 - quantile) <= tail:
        return "fail"
    return "undecided"
