"""Lengths: how long the examples of a workload are, how its batches are filled up, and the buckets that follow."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from evaluators.frozen import Frozen
from evaluators.parameters import Choice

BUCKETS = Choice(
    "buckets",
    (0, 2, 4, 8),
    0,
    "batches are drawn from so many buckets of similar length and filled up to the bucket's edge; 0: drawn as examples "
    "come, and filled up to the longest of the batch",
)


class Filling(Frozen):
    """How examples of unequal length share a batch.

    Attributes:
        axes: of each input that varies, the axis that is its length; axis 0 is the batch.
        padding: what each of them is filled up with, at its end.
    """

    axes: dict[str, int]
    padding: dict[str, float]

    @model_validator(mode="after")
    def _each_has_a_filling(self) -> Self:
        if self.axes.keys() != self.padding.keys() or any(axis < 1 for axis in self.axes.values()):
            raise ValueError("every input that varies needs an axis from 1 on and a value to be filled up with")
        return self


class Lengths(Filling):
    """The lengths of a workload's examples, as they are in calibration.

    Attributes:
        counts: (length, number of examples) of up to 256 lengths, the shortest first; rarer ones are rounded up.
        refused: why batches cannot be drawn from buckets, or None if they can.
    """

    axes: dict[str, int] = Field(default_factory=dict)
    padding: dict[str, float] = Field(default_factory=dict)
    counts: tuple[tuple[int, int], ...] = ()
    refused: str | None = None

    @property
    def option(self) -> Choice | None:
        """How many buckets there can be, as a runtime option; None where there is no choice."""
        offered = [count for count in BUCKETS.values if int(count) <= len(self.counts)]
        return None if self.refused is not None or len(offered) < 2 else BUCKETS.narrowed(offered)


class Buckets(Filling):
    """The buckets that a bundle's batches are drawn from.

    Attributes:
        edges: the longest length of each bucket, ascending. What is longer than the last is in one more bucket, whose
            batches are filled up to their longest.
    """

    edges: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _edges_ascend(self) -> Self:
        if self.edges[0] < 1 or any(one >= other for one, other in zip(self.edges, self.edges[1:], strict=False)):
            raise ValueError(f"edges of buckets must ascend from 1 on, got {list(self.edges)}")
        return self
