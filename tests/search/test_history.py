"""The front over time and its hypervolume: what holds after each trial."""

from __future__ import annotations

import pytest

from search.front import pareto_front
from search.history import moment_metrics, moments_of, turning_points
from search.hypervolume import hypervolume, yardstick
from search.pacing import Pace
from search.story_charts import story_page
from tests.search.factories import BASELINE_ACCURACY, a_candidate, a_result, a_search, a_spec, a_trial

FLOOR = BASELINE_ACCURACY - 0.01


def test_each_moment_has_the_front_of_the_trials_before_it() -> None:
    result, trials = a_search(60)
    moments = moments_of(result, trials)
    assert len(moments) == len(trials)
    for moment in (moments[0], moments[7], moments[-1]):
        expected = pareto_front(trials[: moment.trials], result.objective, result.percentile)
        assert [trial.number for trial in moment.front] == [trial.number for trial in expected]
        assert moment.feasible == sum(trial.feasible for trial in trials[: moment.trials])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("objective", ["latency", "throughput", "size"])
def test_the_hypervolume_never_falls(seed: int, objective: str) -> None:
    result, trials = a_search(60, seed=seed, spec=a_spec(objective=objective))
    found = [moment.hypervolume for moment in moments_of(result, trials) if moment.hypervolume is not None]
    assert found == sorted(found) and found[-1] > 0


def test_the_hypervolume_is_the_area_beyond_the_original() -> None:
    """Two steps: 4 times the original's throughput at 0.2 points above the limit, twice at 0.8 points."""
    trials = [
        a_trial(0, p50=1.0, accuracy=BASELINE_ACCURACY, candidate=a_candidate(batch_size=1)),
        a_trial(1, p50=0.25, accuracy=FLOOR + 0.002, spread=0.0),
        a_trial(2, p50=0.5, accuracy=FLOOR + 0.008, spread=0.0),
    ]
    result = a_result(trials)
    by = yardstick(result, trials)
    assert by is not None
    front = pareto_front(trials[1:], result.objective, result.percentile)
    assert len(front) == 2
    assert hypervolume(front, by) == pytest.approx(3 * 0.2 + 1 * 0.6, rel=1e-3)
    assert hypervolume([trials[0]], by) == 0


def test_without_a_measured_original_there_is_no_hypervolume() -> None:
    trials = [a_trial(1, a_candidate("openvino"))]
    result = a_result(trials)
    [moment] = moments_of(result, trials)
    assert moment.hypervolume is None
    assert "progress/hypervolume" not in moment_metrics(moment, result)


def test_turning_points_are_few_and_end_with_the_last_front() -> None:
    result, trials = a_search(200)
    moments = moments_of(result, trials)
    shown = turning_points(moments, 4)
    assert len(shown) <= 4 and shown[-1].front == moments[-1].front
    assert len({tuple(trial.number for trial in moment.front) for moment in shown}) == len(shown)


def test_the_story_needs_no_network_and_says_what_is_unknown() -> None:
    result, trials = a_search(40)
    page = story_page(result, trials)
    assert "What each factor is worth" in page and "<script src=" not in page
    infeasible, tried = a_search(10, spec=a_spec(latency_budget_ms=0.0001))
    assert "What each factor is worth" not in story_page(infeasible, tried)


def test_a_pace_keeps_to_its_interval_and_to_its_share() -> None:
    pace = Pace(every_s=30, share=0.02)
    assert pace.due(0.0)
    pace.took(0.0, 0.1)
    assert not pace.due(29.9) and pace.due(30.0)
    pace.took(30.0, 2.0)
    assert not pace.due(129.0) and pace.due(130.0)
