"""Whose turn it is: shares by weight, priorities, caps, and nobody starves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.turns import Wish, turns_of

T = "cpu"


def wish(name: str, unfinished: int = 0, waited_s: float = 0.0, **more: float | int | None) -> Wish:
    there = {T: unfinished} if unfinished else {}
    return Wish(name, (T,), waited_s=waited_s, unfinished=there, **more)  # type: ignore[arg-type]


def may(name: str, wishes: list[Wish], devices: int) -> bool:
    unfinished = sum(each.unfinished.get(T, 0) for each in wishes)
    return turns_of(name, wishes, {T: devices}, {T: unfinished}) == (T,)


def run(wishes: list[Wish], devices: int, steps: int) -> dict[str, int]:
    """Let the searches ask in turn, as devices finish the trial that was queued first; return how many each had."""
    asked_at, queue, had = {each.search_id: -each.waited_s for each in wishes}, list[str](), dict[str, int]()
    for now in range(steps):
        while True:
            current = [
                Wish(each.search_id, each.targets, each.weight, each.priority, each.most_unfinished,
                     now - asked_at[each.search_id], {T: queue.count(each.search_id)}) for each in wishes
            ]  # fmt: skip
            lucky = [each.search_id for each in current if may(each.search_id, current, devices)]
            if not lucky:
                break
            queue.append(lucky[0])
            asked_at[lucky[0]], had[lucky[0]] = now, had.get(lucky[0], 0) + 1
        queue = queue[1:]
    return had


def test_one_more_is_queued_than_there_are_devices() -> None:
    assert [may("a", [wish("a", unfinished)], 2) for unfinished in range(5)] == [True, True, True, False, False]


def test_who_has_least_for_its_weight_comes_first() -> None:
    assert not may("a", [wish("a", 2), wish("b", 0)], 2)
    assert may("b", [wish("a", 2), wish("b", 0)], 2)
    assert may("a", [wish("a", 3, weight=4.0), wish("b", 1)], 4), "3 of weight 4 are less than 1 of weight 1"


def test_a_higher_priority_comes_first_as_far_as_it_wants() -> None:
    wishes = [wish("low", 0, waited_s=1e6), wish("high", 3, priority=1)]
    assert (may("low", wishes, 3), may("high", wishes, 3)) == (False, True)
    capped = [wish("low", 0), wish("high", 3, priority=1, most_unfinished=3)]
    assert (may("low", capped, 3), may("high", capped, 3)) == (True, False)


def test_a_cap_counts_all_targets() -> None:
    both = Wish("a", ("x", "y"), most_unfinished=2, unfinished={"x": 1, "y": 1})
    assert turns_of("a", [both], {"x": 5, "y": 5}, {"x": 1, "y": 1}) == ()


def test_each_target_has_its_own_room() -> None:
    both = Wish("a", ("x", "y"), unfinished={"x": 2})
    assert turns_of("a", [both], {"x": 1, "y": 1}, {"x": 2}) == ("y",)
    assert turns_of("a", [Wish("a", ("x",)), Wish("b", ("y",))], {"x": 0}, {}) == ("x",), "b wants another target"


def test_more_searches_than_devices_take_turns() -> None:
    had = run([wish(name) for name in "abcdefgh"], devices=1, steps=80)
    assert set(had) == set("abcdefgh") and max(had.values()) - min(had.values()) <= 2


def test_devices_are_shared_by_weight() -> None:
    had = run([wish("a", weight=3.0), wish("b", weight=1.0)], devices=7, steps=400)
    assert 2.5 <= had["a"] / had["b"] <= 3.5


@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0.1, 10), st.integers(0, 2), st.floats(0, 100)), min_size=1,
             max_size=8),
    st.integers(0, 20),
)  # fmt: skip
def test_room_is_always_given_to_somebody_and_never_more_than_there_is(
    drawn: list[tuple[int, float, int, float]], devices: int
) -> None:
    wishes = [
        Wish(str(number), (T,), weight, priority, None, waited, {T: unfinished})
        for number, (unfinished, weight, priority, waited) in enumerate(drawn)
    ]
    free = devices + 1 - sum(each.unfinished[T] for each in wishes)
    lucky = [each for each in wishes if may(each.search_id, wishes, devices)]
    assert bool(lucky) == (free > 0)
    assert len(lucky) <= max(0, free)
    waiting = {each.priority for each in wishes} - {each.priority for each in lucky}
    assert not lucky or all(priority < max(each.priority for each in lucky) for priority in waiting)
