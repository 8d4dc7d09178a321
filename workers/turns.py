"""Turns: which search may queue the next trial when several share the devices of a fleet. Pure decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace


@dataclass(frozen=True)
class Wish:
    """A search that would queue a trial: for which targets, and what it has there already.

    Attributes:
        unfinished: its trials that are queued or running, by target.
        waited_s: how long ago it last had a turn.
        most_unfinished: no more than so many of its trials may be unfinished, on all targets together.
    """

    search_id: str
    targets: tuple[str, ...]
    weight: float = 1.0
    priority: int = 0
    most_unfinished: int | None = None
    waited_s: float = 0.0
    unfinished: Mapping[str, int] = field(default_factory=dict)


def turns_of(
    search_id: str, wishes: Sequence[Wish], devices: Mapping[str, int], unfinished: Mapping[str, int]
) -> tuple[str, ...]:
    """Return the targets on which a search may queue a trial now.

    A target has room for one unfinished trial more than it has ``devices``, so that no device waits for the next one.
    The free places go, one by one, to the search of the highest priority; among equals to the one that has least there
    for its weight; among those to the one that has waited longest for its weight. So where there are fewer devices
    than searches they take turns, and nobody waits for more than the trial in progress.

    Args:
        search_id: the search that asks; it must be among the ``wishes``.
        wishes: every search that would queue a trial.
        devices: how many there are of each target that the search may use.
        unfinished: how many trials of all searches are queued or running, by target.
    """
    return tuple(
        target for target, count in devices.items()
        if search_id in _places(target, count + 1 - unfinished.get(target, 0), wishes)
    )  # fmt: skip


def _places(target: str, free: int, wishes: Sequence[Wish]) -> list[str]:
    """Return whom the free places of a target go to, in this order."""
    contenders = [wish for wish in wishes if target in wish.targets]
    waiting = [(_rank(wish, target, 0), wish, 0) for wish in contenders if _may_have(wish, 0)]
    heapify(waiting)
    given: list[str] = []
    while waiting and len(given) < free:
        _, wish, had = waiting[0]
        given.append(wish.search_id)
        if _may_have(wish, had + 1):
            heapreplace(waiting, (_rank(wish, target, had + 1), wish, had + 1))
        else:
            heappop(waiting)
    return given


def _may_have(wish: Wish, given: int) -> bool:
    return wish.most_unfinished is None or sum(wish.unfinished.values()) + given < wish.most_unfinished


def _rank(wish: Wish, target: str, given: int) -> tuple[int, float, float, str]:
    there = wish.unfinished.get(target, 0) + given
    return (-wish.priority, there / wish.weight, -wish.weight * wish.waited_s, wish.search_id)
