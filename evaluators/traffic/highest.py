"""The highest rate that keeps the budget: bracketed, halved, and looked at twice. Pure: the tests are passed in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

Status = Literal["pass", "fail", "undecided"]
Trial = Callable[[float, bool], Status]
"""Judges a rate; with True it is a second look, which must have other arrivals."""

PRECISION = 0.05
WIDEN, WIDEN_MOST = 1.2, 4.0
"""By what the first step away from the start multiplies the rate; the next by its square, and so on."""
MOST_TRIALS = 24
SECOND_LOOKS = 4
"""So many of the trials are kept for looking again."""
LEAST_RATE = 0.1


class Highest(NamedTuple):
    """The highest rate that passed twice, and the lowest above it that did not pass; None where there is none."""

    passed: float | None
    missed: float | None


def highest_rate(
    trial: Trial, start: float, *, precision: float = PRECISION, least: float = LEAST_RATE, most: int = MOST_TRIALS
) -> Highest:
    """Look for the highest rate that passes, from ``start`` on, within ``most`` trials.

    A bracket is widened, faster and faster, until one end passes and the other does not, and halved, as a ratio, until
    its ends are within ``precision``. Of several rates near the edge one that passed by luck would be chosen: so that
    one is tried again and, where it does not pass again, the one a step below. Undecided does not pass. Source: the
    server scenario of MLPerf Inference, whose result is the highest rate at which the latency bound is kept.
    """
    passed: float | None = None
    missed: float | None = None
    tried, rate, widen = 0, max(start, least), WIDEN
    while tried < most - SECOND_LOOKS and not _close(passed, missed, precision):
        tried += 1
        if trial(rate, False) == "pass":
            passed = rate
            rate = rate * widen if missed is None else math.sqrt(rate * missed)
        else:
            missed = rate
            if passed is None and rate <= least:
                return Highest(None, missed)
            rate = max(least, rate / widen) if passed is None else math.sqrt(passed * rate)
        widen = min(widen**2, WIDEN_MOST)
    while passed is not None and tried < most:
        tried += 1
        if trial(passed, True) == "pass":
            return Highest(passed, missed)
        missed, passed = passed, passed / (1 + precision)
        if passed < least:
            break
    return Highest(None, missed)


def _close(passed: float | None, missed: float | None, precision: float) -> bool:
    return passed is not None and missed is not None and missed <= passed * (1 + precision)
