"""Figures beside the front: what each factor is worth, and how the search progressed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from search.front import objective_value
from search.palette import NEUTRAL, STAR, colours
from search.result import SearchResult, TrialResult
from search.scene import Axis, axes_of, horizontal_range, show_tick, ticks_of
from search.style import apply_style
from search.wording import pruning_of

_FACTORS: dict[str, Callable[[TrialResult], str]] = {
    "backend": lambda trial: trial.candidate.backend,
    "quantization": lambda trial: trial.candidate.quantization.scheme,
    "pruning": lambda trial: pruning_of(trial.candidate),
    "batch size": lambda trial: str(trial.candidate.batch_size),
    "threads": lambda trial: str(trial.candidate.runtime.threads),
}


def factors_figure(result: SearchResult, trials: Sequence[TrialResult]) -> Any:
    """Draw, for every value of every factor, its feasible trials and the best of them: best against best.

    Returns:
        A plotly Figure with one panel per factor that has more than one value; empty where nothing is feasible.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    axis = axes_of(result)[0]
    tried = [trial for trial in trials if axis.value(trial) is not None]
    factors = [name for name, of in _FACTORS.items() if len({of(trial) for trial in tried}) > 1]
    widths = [1.0 + len(_values(_FACTORS[name], tried)) for name in factors] or [1.0]
    figure = go.Figure(
        make_subplots(rows=1, cols=len(widths), shared_yaxes=True, horizontal_spacing=0.012, column_widths=widths)
    )
    for column, name in enumerate(factors, 1):
        for trace in _panel(_FACTORS[name], tried, axis, result):
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text=name, type="category", tickangle=-40, automargin=True, row=1, col=column)
    apply_style(figure)
    figure.update_layout(height=400, margin={"l": 70, "r": 20, "t": 20, "b": 60}, showlegend=False)
    _scale(figure, axis, tried, result, first_only=True)
    return figure


def progress_figure(result: SearchResult, trials: Sequence[TrialResult]) -> Any:
    """Draw the best feasible objective over the trials, every feasible trial behind it.

    Returns:
        A plotly Figure; empty where nothing is feasible.
    """
    import plotly.graph_objects as go

    axis = axes_of(result)[0]
    ordered = sorted(
        (trial for trial in trials if trial.feasible and axis.value(trial) is not None), key=lambda t: t.number
    )
    steps = improvements(ordered, result)
    figure = go.Figure()
    figure.add_trace(_dots([trial.number for trial in ordered], ordered, axis, name="feasible trial"))
    if steps:
        last = max(trial.number for trial in trials)
        ends = [*(trial.number for trial in steps), last]
        values = [axis.value(trial) for trial in (*steps, steps[-1])]
        line = {"shape": "hv", "color": "#0072B2", "width": 2.2}
        figure.add_trace(go.Scatter(x=ends, y=values, mode="lines", line=line, name="best so far", hoverinfo="skip"))
        marker = {"symbol": "circle", "size": 9, "color": STAR, "line": {"width": 1, "color": "#4A3B00"}}
        figure.add_trace(_dots([trial.number for trial in steps], steps, axis, name="improvement", marker=marker))
    if result.baseline is not None and (value := axis.value(result.baseline)) is not None:
        label = {
            "text": f"baseline ({escape(result.baseline.candidate.backend)})",
            "textposition": "end",
            "yanchor": "top",
        }
        figure.add_hline(y=value, line={"color": NEUTRAL, "dash": "dot", "width": 1.4}, label=label)
    apply_style(figure)
    figure.update_layout(
        height=340, margin={"l": 70, "r": 20, "t": 20, "b": 50}, legend={"orientation": "h", "y": 1.12}
    )
    figure.update_xaxes(title_text="trial")
    _scale(figure, axis, [*ordered, *([result.baseline] if result.baseline else [])], result)
    return figure


def improvements(trials: Sequence[TrialResult], result: SearchResult) -> list[TrialResult]:
    """Return the feasible trials that were better than every earlier one, in the order given."""
    best, found = float("inf"), []
    for trial in trials:
        value = objective_value(trial, result.objective, result.percentile) if trial.feasible else None
        if value is not None and value < best:
            best = value
            found.append(trial)
    return found


def _panel(of: Callable[[TrialResult], str], tried: list[TrialResult], axis: Axis, result: SearchResult) -> list[Any]:
    values = _values(of, tried)
    missed = [trial for trial in tried if trial.verdict == "fail"]
    undecided = [trial for trial in tried if trial.undecided]
    feasible = [trial for trial in tried if trial.feasible]
    ranked = sorted(feasible, key=lambda trial: _rank(trial, result))
    best_of = {value: next((trial for trial in ranked if of(trial) == value), None) for value in values}
    winners = [trial for trial in best_of.values() if trial is not None]
    ahead = [result.best is not None and trial.number == result.best.number for trial in winners]
    palette = colours(trial.candidate.backend for trial in winners)
    cross = {"symbol": "x-thin", "size": 6, "opacity": 0.45, "line": {"width": 1.2, "color": NEUTRAL}}
    ring = {"symbol": "circle-open", "size": 7, "opacity": 0.6, "line": {"width": 1.4}, "color": NEUTRAL}
    star = {
        "size": 12, "color": [palette[trial.candidate.backend] for trial in winners], "symbol": "diamond",
        "line": {"width": [2.5 if best else 1 for best in ahead],
                 "color": [STAR if best else "white" for best in ahead]},
    }  # fmt: skip
    faint = {"size": 6, "opacity": 0.35, "color": NEUTRAL}
    anchor = _dots(values, [None] * len(values), axis, name="order", marker=faint)
    return [
        anchor,
        _dots([of(trial) for trial in missed], missed, axis, name="over a limit", marker=cross),
        _dots([of(trial) for trial in undecided], undecided, axis, name="undecided", marker=ring),
        _dots([of(trial) for trial in feasible], feasible, axis, name="feasible", marker=faint),
        _dots([of(trial) for trial in winners], winners, axis, name="best", marker=star),
    ]


def _rank(trial: TrialResult, result: SearchResult) -> float:
    value = objective_value(trial, result.objective, result.percentile)
    return float("inf") if value is None else value


def _values(of: Callable[[TrialResult], str], trials: Sequence[TrialResult]) -> list[str]:
    """A factor's values in a natural order: numbers by size, the unmodified first."""
    plain = ("fp32", "none")
    number = {value: int(value) if value.isdigit() else 0 for value in {of(trial) for trial in trials}}
    return sorted(number, key=lambda value: (value not in plain, number[value], value))


def _dots(x: Sequence[Any], trials: Sequence[TrialResult | None], axis: Axis, **fields: Any) -> Any:
    import plotly.graph_objects as go

    texts = [f"#{trial.number} {escape(trial.label)}" if trial else "" for trial in trials]
    fields.setdefault("marker", {"size": 7, "opacity": 0.35, "color": NEUTRAL})
    hover = "%{hovertext}<br>%{y:.4g}<extra></extra>"
    y = [axis.value(trial) if trial else None for trial in trials]
    return go.Scatter(x=list(x), y=y, mode="markers", hovertext=texts, hovertemplate=hover, **fields)


def _scale(
    figure: Any, axis: Axis, trials: Sequence[TrialResult], result: SearchResult, first_only: bool = False
) -> None:
    span = horizontal_range(axis, trials)
    if span.log:
        ticks = ticks_of(span)
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=[show_tick(tick) for tick in ticks])
    title = {"title_text": axis.title.replace(", ", "<br>"), "title_font": {"size": 12}}
    figure.update_yaxes(**title, **({"row": 1, "col": 1} if first_only else {}))
