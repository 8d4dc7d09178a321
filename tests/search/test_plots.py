"""The figures show every trial in its part, and the picture is one that can be opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.plots import factors_figure, pareto_figure, pareto_png, progress_figure
from search.scene import (
    Range,
    accuracy_floor,
    accuracy_interval,
    axes_of,
    horizontal_range,
    scene_of,
    ticks_of,
    vertical_range,
)
from tests.search.factories import BASELINE_ACCURACY, a_candidate, a_result, a_search, a_spec, a_trial


def _trace(figure: Any, start: str) -> Any:
    return next(trace for trace in figure.data if (trace.name or "").startswith(start))


def _shown(figure: Any) -> str:
    return str([trace.hovertext for trace in figure.data])


def test_every_trial_plays_exactly_one_part() -> None:
    result, trials = a_search(60)
    scene = scene_of(result, trials)
    groups = [scene.front, scene.dominated, scene.undecided, scene.missed, scene.early, scene.failed]
    numbers = [trial.number for group in groups for trial in group]
    named = {trial.number for trial in scene.marks.values()}
    assert len(numbers) == len(set(numbers))
    assert set(numbers) | named == {trial.number for trial in trials}


def test_the_figure_has_the_front_the_marks_and_the_rejected_apart() -> None:
    result, trials = a_search(60)
    figure = pareto_figure(result, trials)
    front = _trace(figure, "Pareto front")
    assert list(front.x) == [trial.throughput_per_s for trial in result.front]
    assert list(front.y) == [trial.accuracy for trial in result.front]
    assert front.line.shape == "hv"
    assert result.best is not None and result.baseline is not None
    assert list(_trace(figure, "best:").y) == [result.best.accuracy]
    assert _trace(figure, "baseline:").marker.symbol != _trace(figure, "best:").marker.symbol
    assert _trace(figure, "rejected before accuracy").yaxis == "y2"
    assert _trace(figure, "failed: ").name == f"failed: {result.trials.failed} (see table)"


def test_undecided_trials_have_a_mark_of_their_own(tmp_path: Path) -> None:
    trials = [a_trial(0), a_trial(1, p50=0.3, accuracy=0.914), a_trial(2, accuracy=0.905, gates=False)]
    result = a_result(trials)
    figure = pareto_figure(result, trials)
    doubts = _trace(figure, "undecided: 1")
    assert (list(doubts.y), list(doubts.text)) == ([0.914], ["?"])
    assert "0.90 pp drop (0.70 to 1.10 pp), limit 1.00 pp" in doubts.hovertext[0]
    assert _trace(figure, "over a limit: 1").marker.symbol != doubts.marker.symbol[0]
    panel = [trace for trace in factors_figure(result, trials).data if trace.name == "undecided"]
    assert all(list(trace.y) == [trials[1].throughput_per_s] for trace in panel)
    without = a_result(trials[:1])
    assert not any((trace.name or "").startswith("undecided") for trace in pareto_figure(without, trials[:1]).data)
    assert pareto_png(result, trials, tmp_path / "front.png").stat().st_size > 1000


def test_the_drawn_interval_agrees_with_the_verdict() -> None:
    result, trials = a_search(60)
    floor = accuracy_floor(result)
    intervals = {trial.number: accuracy_interval(trial, result) for trial in trials if trial.accuracy is not None}
    for trial in result.front:
        low, _ = intervals[trial.number] or (0.0, 0.0)
        assert floor is not None and low >= floor - 0.001
    unlimited = a_result(trials, a_spec(max_accuracy_drop=None, min_accuracy=0.9))
    assert accuracy_interval(result.front[0], unlimited) == result.front[0].accuracy_ci95


def test_a_button_leads_to_every_axis_and_latency_shows_the_budget() -> None:
    result, trials = a_search(60)
    buttons = {button.label: button.args for button in pareto_figure(result, trials).layout.updatemenus[0].buttons}
    assert list(buttons) == ["throughput", "latency", "size"]
    data, layout = buttons["latency"]
    at = [shape["x0"] for shape in layout["shapes"] if shape["type"] == "line" and shape["xref"] == "x"]
    assert at == [2.0]
    assert any(data["error_x.visible"]) and not any(buttons["throughput"][0]["error_x.visible"])
    assert all(len(values) == len(pareto_figure(result, trials).data) for values in (data["x"], data["error_x.array"]))


def test_a_label_cannot_write_markup_into_the_figure() -> None:
    result, _ = a_search(6)
    evil = a_trial(99, a_candidate("<img src=x onerror=alert(1)>", "static_int8", kind="</script><b>"))
    figure = pareto_figure(result.model_copy(update={"front": (evil,)}), [evil])
    assert "<img" not in _shown(figure) and "</script>" not in _shown(figure)
    assert "&lt;img" in _shown(figure)


@pytest.mark.parametrize("count", [0, 1, 4])
def test_short_searches_have_figures_too(count: int, tmp_path: Path) -> None:
    result, trials = a_search(count)
    for draw in (pareto_figure, factors_figure, progress_figure):
        assert draw(result, trials).to_json()
    assert pareto_png(result, trials, tmp_path / "front.png").stat().st_size > 1000


@pytest.mark.parametrize("spec", [a_spec(), a_spec(objective="latency"), a_spec(latency_budget_ms=0.02)])
def test_the_picture_is_a_valid_png_of_the_promised_size(spec: Any, tmp_path: Path) -> None:
    from PIL import Image

    result, trials = a_search(40, spec=spec)
    with Image.open(pareto_png(result, trials, tmp_path / "front.png")) as image:
        image.load()
        assert (image.format, image.size) == ("PNG", (1600, 1000))
        assert len(image.convert("L").getcolors()) > 20


def test_progress_only_improves_and_factors_have_a_panel_for_each_that_varies() -> None:
    result, trials = a_search(60)
    values = list(_trace(progress_figure(result, trials), "best so far").y)
    assert values == sorted(values)
    titles = {axis.title.text for axis in factors_figure(result, trials).select_xaxes()}
    assert titles == {"backend", "quantization", "pruning", "batch size", "threads"}


def test_the_accuracy_floor_is_the_tighter_of_both_limits() -> None:
    result, _ = a_search(40, spec=a_spec(max_accuracy_drop=0.01, min_accuracy=0.5))
    assert accuracy_floor(result) == pytest.approx(BASELINE_ACCURACY - 0.01)
    result, _ = a_search(40, spec=a_spec(max_accuracy_drop=0.5, min_accuracy=0.9))
    assert accuracy_floor(result) == pytest.approx(0.9)


def test_axes_turn_logarithmic_when_values_lie_far_apart() -> None:
    result, _ = a_search(2, spec=a_spec(latency_budget_ms=None))
    latency = next(axis for axis in axes_of(result) if axis.name == "latency")
    near, far = a_trial(1, p50=1.0), a_trial(2, p50=40.0)
    assert not horizontal_range(latency, [near]).log
    span = horizontal_range(latency, [near, far])
    assert span.log and span.low < 1.08 < 43 < span.high
    assert ticks_of(Range(0.4, 30.0, log=True)) == [0.5, 1.0, 2.0, 5.0, 10.0, 20.0]


def test_a_hopeless_trial_does_not_squeeze_the_front() -> None:
    result, trials = a_search(40)
    hopeless = a_trial(99, accuracy=0.1)
    shown, hidden = vertical_range(result, scene_of(result, [*trials, hopeless]))
    assert shown.low > 0.8 and hidden >= 1


def test_the_horizontal_axis_is_labelled_even_where_nothing_was_rejected_early() -> None:
    result, trials = a_search(4)
    assert not scene_of(result, trials).early
    figure = pareto_figure(result, trials)
    assert any(trace.xaxis == "x2" for trace in figure.data)
    assert "throughput" in figure.layout.xaxis2.title.text
