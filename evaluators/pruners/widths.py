"""How many channels, hidden units or heads are left: pure arithmetic, and the knob that aligns it."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.parameters import Choice, Number

ALIGNMENT = Choice("alignment", (8, 16, 32), 8, "what is left of a width is a multiple of this")


def kept_width(width: int, amount: float, alignment: int) -> int:
    """Return how many of ``width`` channels stay: the nearest multiple of ``alignment``, at least one, at most all."""
    nearest = round(width * (1 - amount) / alignment) * alignment
    return min(width, max(alignment, nearest))


def kept_under(scores: Sequence[Sequence[float]], amount: float, alignment: int) -> list[int]:
    """Return how many channels each group keeps, if the worst ``amount`` of all of them together were to go.

    ``scores`` are those of each group's channels; a group keeps the nearest multiple of ``alignment``, at least one.
    """
    everything = sorted(score for group in scores for score in group)
    if not everything:
        return []
    limit = everything[min(int(amount * len(everything)), len(everything) - 1)]
    left = [sum(score >= limit for score in group) for group in scores]
    return [
        kept_width(len(group), 1 - stay / len(group), alignment) for group, stay in zip(scores, left, strict=True)
    ]  # fmt: skip


def fitting(knob: Choice, widest: int) -> Choice:
    """Return the alignments that can remove anything: one as wide as the widest layer removes nothing."""
    values = [value for value in knob.values if isinstance(value, int) and value < widest]
    return knob.narrowed(values or knob.values[:1])


def shares(count: int, most: int, description: str) -> Number:
    """Return the amounts that remove 1, 2, … of ``count`` equal things, at most ``most`` of them and never all.

    The share of one is rounded up or down to four decimals, so it is turned back with ``round(amount * count)``.
    """
    step = round(1 / count, 4) if count > 1 else 0.5
    steps = max(1, min(most, count - 1))
    return Number("amount", step, round(step * steps, 4), step, step, description)
