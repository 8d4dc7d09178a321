"""What each factor is worth: along measured twins, in one chain, and honest about what was not measured."""

from __future__ import annotations

from typing import Any

import pytest

from search.result import SearchResult, TrialResult
from search.worth import Worth, show_worth, worth_metrics, worth_of
from tests.search.factories import a_candidate, a_result, a_spec, a_trial


def _trial(number: int, p50: float, *parts: Any, **more: Any) -> TrialResult:
    """A measured trial that was not timed in turn with anything."""
    trial = a_trial(number, a_candidate(*parts, **more), p50=p50, accuracy=0.92)
    return trial.model_copy(update={"speedup": None})


def _worth(trials: list[TrialResult], best: int) -> Worth | None:
    result = a_result(trials, a_spec(latency_budget_ms=100.0))
    found = next(trial for trial in trials if trial.number == best)
    return worth_of(result.model_copy(update={"best": found}), trials)


ORIGINAL = _trial(0, 8.0)
BEST = _trial(9, 2.0, "openvino", "static_int8", "channel", batch_size=8)


def test_a_full_chain_of_twins_gives_each_factor_its_own_step() -> None:
    trials = [
        ORIGINAL, _trial(1, 4.0, "openvino"), _trial(2, 2.0, "openvino", "static_int8"),
        _trial(3, 1.0, "openvino", "static_int8", "channel"), BEST,
    ]  # fmt: skip
    worth = _worth(trials, 9)
    assert worth is not None and worth.unused == ()
    assert [(step.factors, step.before, step.after) for step in worth.steps] == [
        (("backend",), 0, 1), (("quantization",), 1, 2), (("pruning",), 2, 3), (("batch size",), 3, 9),
    ]  # fmt: skip
    assert [step.ratio.value for step in worth.steps] == pytest.approx([2.0, 2.0, 2.0, 4.0])
    assert worth.total.value == pytest.approx(32.0)
    assert all(step.ratio.ci95[0] < step.ratio.value < step.ratio.ci95[1] for step in worth.steps)


def test_factors_between_which_nothing_was_measured_are_told_together() -> None:
    worth = _worth([ORIGINAL, _trial(1, 4.0, "openvino", batch_size=8), BEST], 9)
    assert worth is not None
    assert [step.factors for step in worth.steps] == [("backend", "batch size"), ("quantization", "pruning")]
    assert [step.ratio.value for step in worth.steps] == pytest.approx([16.0, 2.0])
    assert worth.steps[1].name == "quantization_and_pruning"
    assert "each alone is unknown" in show_worth(worth)[1]
    assert worth_metrics(worth)["worth/quantization_and_pruning"] == pytest.approx(2.0)


def test_the_order_follows_the_twins_that_were_measured() -> None:
    at_eight = [_trial(1, 32.0, batch_size=8), _trial(2, 16.0, "openvino", batch_size=8)]
    worth = _worth([ORIGINAL, *at_eight, _trial(3, 8.0, "openvino", "static_int8", batch_size=8), BEST], 9)
    assert worth is not None
    assert [step.factors for step in worth.steps] == [("batch size",), ("backend",), ("quantization",), ("pruning",)]


def test_what_the_best_has_from_the_original_is_worth_nothing_and_named() -> None:
    best = _trial(2, 4.0, "openvino")
    worth = _worth([ORIGINAL, best], 2)
    assert worth is not None and worth.unused == ("quantization", "pruning", "batch size")
    assert "pruning: as in the original" in show_worth(worth)


def test_the_original_itself_may_be_the_best() -> None:
    worth = _worth([ORIGINAL], 0)
    assert worth is not None and worth.steps == () and worth.total.value == 1.0


def test_a_twin_at_other_threads_says_so() -> None:
    worth = _worth([ORIGINAL, _trial(1, 2.0, "openvino", threads=2)], 1)
    assert worth is not None and worth.steps[0].differs == ("threads",)
    assert "also differ in threads" in show_worth(worth)[0]


def test_pairs_timed_in_turn_are_compared_by_that() -> None:
    fast = a_trial(1, a_candidate("openvino"), p50=1.0, accuracy=0.92)
    worth = _worth([ORIGINAL, fast], 1)
    assert worth is not None and worth.steps[0].in_turn
    assert worth.steps[0].ratio.value == pytest.approx(2.0)  # timed in turn: not the 8 of two measurements


@pytest.mark.parametrize("batch_size", [1, 8])
def test_trials_at_two_batch_sizes_are_never_compared_in_turn(batch_size: int) -> None:
    fast = a_trial(1, a_candidate("openvino", batch_size=batch_size), p50=1.0, accuracy=0.92)
    worth = _worth([ORIGINAL, fast], 1)
    assert worth is not None and worth.steps[0].in_turn is (batch_size == 1)


def test_without_a_best_or_a_clean_original_nothing_is_known() -> None:
    dirty = ORIGINAL.model_copy(update={"latency_ms": ORIGINAL.latency_ms and
                                        ORIGINAL.latency_ms.model_copy(update={"clean": False})})  # fmt: skip
    assert _worth([dirty, BEST], 9) is None
    result: SearchResult = a_result([ORIGINAL], a_spec(latency_budget_ms=0.001))
    assert result.best is None and worth_of(result, [ORIGINAL]) is None
