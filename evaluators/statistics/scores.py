"""Intervals of accuracies and of their drops, and how the error of a verdict is spent over looks, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evaluators.outcome import Interval

CI = 0.95
FIRST_LOOK = 200
EARLY_SHARE = 0.05
"""The part of the permitted error that all early looks together may use up; the last look has the rest."""

INFLUENCE_DRAWS = 40


@dataclass(frozen=True)
class Estimate:
    """A value, its 95 % interval, one-sided bounds at a stated confidence, and the procedure that drew them."""

    value: float
    ci95: Interval
    bounds: Interval
    method: str


@dataclass(frozen=True)
class Spread:
    """How uncertain a value is.

    Attributes:
        error: standard error of the value, known with ``degrees`` degrees of freedom.
        one: by how much one example of another kind than those seen would move the value.
    """

    error: float
    degrees: int
    one: float

    def half(self, confidence: float) -> float:
        """Return how far a one-sided bound at ``confidence`` lies from the value.

        To Student's bound is added what examples that have not been seen could do: ``t**2`` squared influences of one
        example, as Agresti and Coull (The American Statistician 52, 1998) add ``z**2`` observations to a proportion.
        Without it, a value that happens not to vary in the sample would be taken for certain.
        """
        from scipy.stats import t

        quantile = float(t.ppf(confidence, self.degrees))
        return quantile * math.hypot(self.error, quantile * self.one)

    def around(self, value: float, confidence: float, method: str) -> Estimate:
        """Return the estimate of ``value`` with this spread."""
        wide, bound = self.half((1 + CI) / 2), self.half(confidence)
        return Estimate(value, (value - wide, value + wide), (value - bound, value + bound), method)


def accuracy_of(scores: np.ndarray, confidence: float) -> Estimate:
    """Estimate a mean score from per-example scores, shape (N,).

    Scores that are all 0 or 1: Wilson's interval, and the exact bounds of Clopper and Pearson. Others: Student's,
    widened for kinds of examples that were not seen.
    """
    from scipy.stats import binomtest

    value = float(scores.mean())
    if not _binary(scores):
        return _spread_of(scores, _unit(scores)).around(value, confidence, "t")
    test = binomtest(int(scores.sum()), len(scores))
    wide, exact = test.proportion_ci(CI, "wilson"), test.proportion_ci(2 * confidence - 1, "exact")
    ci95, bounds = (float(wide.low), float(wide.high)), (float(exact.low), float(exact.high))
    return Estimate(value, ci95, bounds, "Wilson")


def drop_of(original: np.ndarray, found: np.ndarray, confidence: float) -> Estimate:
    """Estimate how much lower ``found`` scores than ``original`` on the same examples; both of shape (N,).

    Scores that are all 0 or 1 are compared as paired proportions, others by Student's interval of the differences,
    widened for kinds of differences that were not seen.
    """
    differences = original - found
    value = float(differences.mean())
    if not (_binary(original) and _binary(found)):
        unit = _unit(np.concatenate([original, found]))
        return _spread_of(differences, unit).around(value, confidence, "paired t")
    lost, gained = int((differences > 0).sum()), int((differences < 0).sum())
    ci95 = paired_proportions(lost, gained, len(differences), (1 + CI) / 2)
    bounds = paired_proportions(lost, gained, len(differences), confidence)
    return Estimate(
        value, (float(ci95[0]), float(ci95[1])), (float(bounds[0]), float(bounds[1])), "paired proportions (MOVER)"
    )


def paired_proportions(
    lost: np.ndarray | int, gained: np.ndarray | int, examples: int, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return one-sided bounds, each at ``confidence``, of the difference of two paired proportions.

    Of ``examples`` pairs, ``lost`` are right in the first model only and ``gained`` in the second only; arrays give an
    array for each bound. The exact (Clopper-Pearson) limits of both shares are combined by the method of variance
    estimates recovery with the correlation of multinomial shares: Zou and Donner, Statistics in Medicine 27 (2008),
    after Newcombe, Statistics in Medicine 17 (1998). Where no pair differs, the upper bound is the exact
    ``1 - (1 - confidence)**(1 / examples)``.
    """
    upper = _upper_difference(np.asarray(lost, float), np.asarray(gained, float), examples, confidence)
    lower = -_upper_difference(np.asarray(gained, float), np.asarray(lost, float), examples, confidence)
    return lower, upper


def _upper_difference(first: np.ndarray, second: np.ndarray, n: int, confidence: float) -> np.ndarray:
    from scipy.special import betaincinv

    p, q = first / n, second / n
    with np.errstate(invalid="ignore", divide="ignore"):
        high = np.where(first < n, betaincinv(first + 1, n - first, confidence), 1.0)
        low = np.where(second > 0, betaincinv(second, n - second + 1, 1 - confidence), 0.0)
        correlation = np.nan_to_num(-np.sqrt(p * q / ((1 - p) * (1 - q))), nan=0.0, neginf=-1.0)
    up, down = high - p, q - low
    distance = np.sqrt(up**2 + down**2 - 2 * correlation * up * down)
    bound: np.ndarray = np.minimum(1.0, p - q + distance)
    return bound


def bootstrap(
    original: Callable[[np.ndarray], float],
    found: Callable[[np.ndarray, np.ndarray], float],
    examples: int,
    resamples: int,
    seed: int = 0,
) -> tuple[Spread, Spread] | None:
    """Return the spread of a corpus score and of its drop, by the paired bootstrap over examples.

    Every resample draws the same examples for both models (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, chapters 6 and 8). What one example can do is the root mean square of what happens when an example is
    answered like another one.

    Args:
        original: the original's score on the examples of these indices.
        found: the candidate's, where ``found(answers, targets)`` takes its answers from one set of examples and the
            targets from another; they are the same in a resample.
        examples: how many there are to draw from.
        resamples: how many are drawn.
        seed: of the drawing.

    Returns:
        None where the score is not finite on more than half of the resamples.
    """
    random = np.random.default_rng(seed)
    scores, drops = [], []
    for _ in range(resamples):
        drawn = random.integers(0, examples, examples)
        score = found(drawn, drawn)
        scores.append(score)
        drops.append(original(drawn) - score)
    finite = np.isfinite(drops)
    if finite.sum() < max(2, resamples / 2):
        return None
    every = np.arange(examples)
    whole, moved = found(every, every), []
    for _ in range(INFLUENCE_DRAWS):
        answers = every.copy()
        answers[random.integers(examples)] = random.integers(examples)
        moved.append(found(answers, every) - whole)
    one = float(np.sqrt(np.nanmean(np.square(moved))))
    degrees = int(finite.sum()) - 1
    return (
        Spread(float(np.std(np.asarray(scores)[finite], ddof=1)), degrees, one),
        Spread(float(np.std(np.asarray(drops)[finite], ddof=1)), degrees, one),
    )


def jackknife(without: np.ndarray, examples: int) -> Spread:
    """Return the spread of a corpus score or drop from its values ``without`` each of G groups, shape (G,).

    Delete-a-group jackknife: Shao and Tu, The Jackknife and Bootstrap, 1995, section 2.3. One example is taken to be
    able to do what it does to a mean of scores between 0 and 1.
    """
    count = len(without)
    error = math.sqrt((count - 1) / count * float(np.square(without - without.mean()).sum()))
    return Spread(error, count - 1, 1 / examples)


def looks(examples: int, first: int = FIRST_LOOK) -> tuple[int, ...]:
    """Return after how many examples to look: a half, a quarter, … of all, none below ``first``, and all."""
    found = [examples]
    while (part := found[-1] // 2) >= first:
        found.append(part)
    return tuple(reversed(found))


def look_confidence(confidence: float, planned: int, last: bool) -> float:
    """Return the confidence of the bounds at one of ``planned`` looks.

    The early looks share a twentieth of the permitted error evenly and the last has the rest, so that the chance that
    any bound at any look is wrong is at most ``1 - confidence`` (Bonferroni; early looks at a far smaller level than
    the last are Haybittle and Peto's rule: Peto et al., British Journal of Cancer 34, 1976).
    """
    error = 1 - confidence
    if planned == 1:
        return confidence
    return 1 - error * (1 - EARLY_SHARE) if last else 1 - error * EARLY_SHARE / (planned - 1)


def _binary(scores: np.ndarray) -> bool:
    return bool(np.isin(scores, (0.0, 1.0)).all())


def _unit(scores: np.ndarray) -> float:
    """Return the size of an example's score: the range seen, else the largest, else 1."""
    return float(np.ptp(scores)) or float(np.abs(scores).max()) or 1.0


def _spread_of(values: np.ndarray, unit: float) -> Spread:
    """Return the spread of a mean; where the values are constant, one example could differ by ``unit``."""
    n = len(values)
    deviation = float(values.std(ddof=1)) if n > 1 else 0.0
    one = float(np.abs(values - values.mean()).max()) or unit
    return Spread(deviation / math.sqrt(n), max(1, n - 1), one / n)
