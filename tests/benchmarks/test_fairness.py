"""A large search does not hold up a small one: the benchmark's simulation, over the real ledger, on a small fleet."""

from __future__ import annotations

import pytest

from benchmarks.fairness import alone_s, beside_s

LONGEST_S = 6.0


@pytest.mark.parametrize(("priority", "its_own"), [(0, 1), (1, 2)], ids=["equal share", "higher priority"])
def test_a_small_search_ends_no_more_than_a_trial_later_than_without_the_large_one(priority: int, its_own: int) -> None:
    beside = beside_s(devices=2, trials=6, large=10_000, priority=priority, longest_s=LONGEST_S)
    assert beside <= alone_s(its_own, 6, LONGEST_S) + LONGEST_S
