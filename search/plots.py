"""Interactive figures of a search: the front, what each factor is worth, and the progress."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10
from typing import Any

from search.charts import factors_figure, progress_figure
from search.palette import LIMIT, NEUTRAL, STAR, colours, symbols
from search.pictures import pareto_png
from search.result import SearchResult, TrialResult
from search.scene import (
    Axis,
    Range,
    Scene,
    accuracy_floor,
    accuracy_interval,
    axes_of,
    horizontal_range,
    scene_of,
    show_tick,
    ticks_of,
    vertical_range,
)
from search.style import INK, apply_style
from search.units import show_bytes, show_ms
from search.wording import (
    all_knobs,
    ending_of,
    in_shares,
    is_share,
    pruning_of,
    show_drop,
    show_interval,
    show_limit,
    show_rate,
    show_score,
    show_speedup,
    why_not,
)

__all__ = ["factors_figure", "pareto_figure", "pareto_png", "progress_figure"]

_MARK_SYMBOLS = {"best": "star", "baseline": "circle-open", "best float": "hexagon-open", "nearest": "diamond-open"}


def pareto_figure(result: SearchResult, trials: Sequence[TrialResult]) -> Any:
    """Draw every trial over the objective and accuracy; buttons change the horizontal axis.

    Returns:
        A plotly Figure that needs no network: colours are backends, symbols pruning structures, crosses broken limits,
        question marks undecided ones.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    scene, axes = scene_of(result, trials), axes_of(result)
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        row_heights=[0.91, 0.09] if scene.early else [0.995, 0.005],
        vertical_spacing=0.015,
    )
    figure = go.Figure(figure)
    drawn = _Traces(result, scene, axes)
    for trace, row in drawn.build():
        figure.add_trace(trace, row=row, col=1)
    _lay_out(figure, result, scene, axes, drawn)
    return figure


class _Traces:
    """The traces of the front's figure, and for each of them its horizontal values on every axis."""

    def __init__(self, result: SearchResult, scene: Scene, axes: tuple[Axis, ...]) -> None:
        self.result, self.scene, self.axes = result, scene, axes
        everything = (*scene.drawn, *scene.early, *scene.marks.values())
        self.colours = colours(trial.candidate.backend for trial in everything)
        self.symbols = symbols(trial.candidate.pruning.structure for trial in everything)
        self.trials_of: list[tuple[TrialResult, ...]] = []
        self.barred: list[bool] = []

    def build(self) -> list[tuple[Any, int]]:
        """Return every trace with the row it belongs to."""
        scene = self.scene
        found = [(self._crosses(scene.missed, "over a limit", 0.55), 1)] if scene.missed else []
        if scene.front:
            found.append((self._line(), 1))
        for backend in self.colours:
            beaten = tuple(trial for trial in scene.dominated if trial.candidate.backend == backend)
            ahead = tuple(trial for trial in scene.front if trial.candidate.backend == backend)
            if beaten:
                found.append((self._points(backend, beaten, faint=True, legend=not ahead), 1))
            if ahead:
                found.append((self._points(backend, ahead, faint=False, legend=True), 1))
        if scene.undecided:
            found.append((self._doubts(), 1))
        found += [(self._mark(name, trial), 1) for name, trial in reversed(scene.marks.items())]
        found.append((self._rug(), 2))
        if scene.failed:
            found.append((self._count(), 1))
        return found + [(trace, 1) for trace in self._structures()]

    def horizontal(self, axis: Axis) -> list[list[float | None]]:
        """Return the horizontal values of every trace on ``axis``."""
        return [[axis.value(trial) for trial in group] or [None] for group in self.trials_of]

    def errors(self, axis: Axis) -> tuple[list[list[float]], list[list[float]]]:
        """Return the upper and the lower error of every trace on ``axis``, in the axis' unit."""
        groups = [group if barred else () for group, barred in zip(self.trials_of, self.barred, strict=True)]
        pairs = [[_errors(axis.value(trial), axis.interval(trial)) for trial in group] for group in groups]
        return [[up for up, _ in group] for group in pairs], [[down for _, down in group] for group in pairs]

    def _scatter(self, group: tuple[TrialResult, ...], **fields: Any) -> Any:
        import plotly.graph_objects as go

        self.trials_of.append(group)
        self.barred.append("error_x" in fields)
        axis = self.axes[0]
        common = {
            "x": [axis.value(trial) for trial in group],
            "y": [trial.accuracy for trial in group],
            "mode": "markers",
        }
        if group:
            hover = {
                "hovertext": [_hover(trial, self.result) for trial in group],
                "hovertemplate": "%{hovertext}<extra></extra>",
            }
            common |= hover
        return go.Scatter(common | fields)

    def _points(self, backend: str, group: tuple[TrialResult, ...], *, faint: bool, legend: bool) -> Any:
        colour = self.colours[backend]
        marker = {
            "color": colour, "size": 8 if faint else 12, "opacity": 0.4 if faint else 1.0,
            "symbol": [self.symbols[trial.candidate.pruning.structure] for trial in group],
            "line": {"width": 0 if faint else 1.2, "color": "white"},
        }  # fmt: skip
        bars = {} if faint else self._bars(group, colour)
        return self._scatter(group, name=escape(backend), legendgroup=backend, showlegend=legend, marker=marker, **bars)

    def _bars(self, group: tuple[TrialResult, ...], colour: str) -> dict[str, Any]:
        vertical = [_errors(trial.accuracy, accuracy_interval(trial, self.result)) for trial in group]
        horizontal = [_errors(self.axes[0].value(trial), self.axes[0].interval(trial)) for trial in group]
        style = {"type": "data", "symmetric": False, "color": _translucent(colour), "thickness": 1, "width": 3}
        return {
            "error_y": {**style, "array": [up for up, _ in vertical], "arrayminus": [down for _, down in vertical]},
            "error_x": {**style, "array": [up for up, _ in horizontal], "arrayminus": [down for _, down in horizontal]},
        }

    def _line(self) -> Any:
        line = {"shape": "hv", "color": NEUTRAL, "width": 1.6}
        return self._scatter(
            self.scene.front, name="Pareto front", mode="lines", line=line, hoverinfo="skip", hovertemplate=None
        )

    def _crosses(self, group: tuple[TrialResult, ...], name: str, opacity: float) -> Any:
        marker = {
            "symbol": "x-thin", "size": 8, "opacity": opacity,
            "line": {"width": 1.6, "color": [self.colours[trial.candidate.backend] for trial in group]},
        }  # fmt: skip
        return self._scatter(group, name=f"{name}: {len(group)}", marker=marker)

    def _doubts(self) -> Any:
        """Undecided trials: hollow, with a question mark, and with the intervals that reach over a limit."""
        group = self.scene.undecided
        outlines = [self.colours[trial.candidate.backend] for trial in group]
        marker = {
            "symbol": [f"{self.symbols[trial.candidate.pruning.structure]}-open" for trial in group],
            "size": 15, "color": outlines, "line": {"width": 1.4, "color": outlines},
        }  # fmt: skip
        return self._scatter(
            group, name=f"undecided: {len(group)}", mode="markers+text", marker=marker, text=["?"] * len(group),
            textposition="middle center", textfont={"size": 11}, **self._bars(group, NEUTRAL),
        )  # fmt: skip

    def _rug(self) -> Any:
        trace = self._crosses(self.scene.early, "rejected before accuracy", 0.7)
        trace.x, trace.y = list(trace.x) or [None], [0] * len(self.scene.early) or [None]
        trace.showlegend = bool(self.scene.early)
        return trace

    def _mark(self, name: str, trial: TrialResult) -> Any:
        colour = self.colours[trial.candidate.backend]
        if name == "best":
            marker: dict[str, Any] = {
                "symbol": "star",
                "size": 21,
                "color": STAR,
                "line": {"width": 1.5, "color": "#4A3B00"},
            }
        else:
            marker = {
                "symbol": _MARK_SYMBOLS[name],
                "size": 15,
                "color": colour,
                "line": {"width": 2.5, "color": colour},
            }
        label = f"<b>{name}</b>" if name == "best" else f"{name} ({escape(trial.candidate.backend)})"
        return self._scatter(
            (trial,), name=f"{name}: {escape(trial.label)}", mode="markers+text", marker=marker, text=[label],
            textposition="bottom center" if name == "best" else "top center", cliponaxis=False,
        )  # fmt: skip

    def _count(self) -> Any:
        marker = {"symbol": "circle-x-open", "color": NEUTRAL, "size": 9}
        return self._scatter(
            (), x=[None], y=[None], name=f"failed: {len(self.scene.failed)} (see table)", marker=marker
        )

    def _structures(self) -> list[Any]:
        """The legend of the symbols, where there is more than one."""
        if len(self.symbols) < 2:
            return []
        return [
            self._scatter((), x=[None], y=[None], name="unpruned" if name == "none" else f"{escape(name)} pruning",
                          marker={"symbol": symbol, "color": NEUTRAL, "size": 9})
            for name, symbol in self.symbols.items()
        ]  # fmt: skip


def _lay_out(figure: Any, result: SearchResult, scene: Scene, axes: tuple[Axis, ...], drawn: _Traces) -> None:
    vertical, _ = vertical_range(result, scene)
    views = [_view(axis, drawn, result, scene, first=axis is axes[0]) for axis in axes]
    apply_style(figure)
    figure.update_layout(
        height=620, margin={"l": 70, "r": 20, "t": 46, "b": 56}, legend={"x": 1.01, "y": 1, "itemsizing": "constant"},
        updatemenus=[{"type": "buttons", "direction": "right", "buttons": views, "x": 0, "y": 1.02, "xanchor": "left",
                      "yanchor": "bottom", "pad": {"t": 0, "b": 4}, "bgcolor": "#DCE3EA", "bordercolor": "#AEB8C2",
                      "font": {"size": 12, "color": INK}}],
    )  # fmt: skip
    figure.update_layout(views[0]["args"][1])
    figure.update_xaxes(showticklabels=False, ticks="", row=1, col=1)
    scored = result.scored_by and f" ({escape(result.scored_by)})"
    figure.update_yaxes(title_text=f"accuracy{scored}", tickformat=".2~%" if in_shares(result) else None,
                        range=[vertical.low, vertical.high], row=1, col=1)  # fmt: skip
    figure.update_yaxes(visible=False, range=[-1, 1], fixedrange=True, row=2, col=1)


def _view(axis: Axis, drawn: _Traces, result: SearchResult, scene: Scene, *, first: bool) -> dict[str, Any]:
    """One button: the data and the layout of the figure over ``axis``."""
    span = horizontal_range(axis, [*scene.drawn, *scene.early, *scene.marks.values()])
    vertical, hidden = vertical_range(result, scene)
    upper, lower = drawn.errors(axis)
    data = {
        "x": drawn.horizontal(axis), "line.width": [1.6 if first else 0] * len(upper),
        "error_x.visible": [any(up) or any(down) for up, down in zip(upper, lower, strict=True)],
        "error_x.array": upper, "error_x.arrayminus": lower,
    }  # fmt: skip
    layout = {f"{name}.{key}": value for name in ("xaxis", "xaxis2") for key, value in _range(span).items()}
    layout |= {
        "xaxis2.title.text": axis.title,
        "shapes": _limits(axis, result, span, vertical),
        "annotations": _words(axis, result, scene, span, vertical, hidden),
    }
    return {"label": axis.name, "method": "update", "args": [data, layout]}


def _range(span: Range) -> dict[str, Any]:
    if not span.log:
        return {"type": "linear", "range": [span.low, span.high], "tickmode": "auto"}
    ticks, ends = ticks_of(span), [log10(span.low), log10(span.high)]
    shown = [show_tick(tick) for tick in ticks]
    return {"type": "log", "range": ends, "tickmode": "array", "tickvals": ticks, "ticktext": shown}


def _limits(axis: Axis, result: SearchResult, span: Range, vertical: Range) -> list[dict[str, Any]]:
    """The lines of the limits and a tint over what they forbid."""
    line = {"color": LIMIT, "width": 1.5, "dash": "dash"}
    tint = {"type": "rect", "fillcolor": LIMIT, "opacity": 0.055, "line": {"width": 0}, "layer": "below"}
    shapes: list[dict[str, Any]] = []
    if (at := axis.limit_value) is not None:
        place = {"xref": "x", "x0": at, "yref": "paper", "y0": 0, "y1": 1}
        shapes.append({"type": "line", **place, "x1": at, "line": line})
        shapes.append({**tint, **place, "x1": max(span.high, at)})
    if (floor := _shown_floor(result, vertical)) is not None:
        place = {"xref": "paper", "x0": 0, "x1": 1, "yref": "y", "y0": floor}
        shapes.append({"type": "line", **place, "y1": floor, "line": line})
        shapes.append({**tint, **place, "y1": vertical.low})
    return shapes


def _words(axis: Axis, result: SearchResult, scene: Scene, span: Range, vertical: Range, hidden: int) -> list[Any]:
    """What is written on the figure: the limits, the strip's name, and how many trials lie outside."""
    common = {"xref": "paper", "yref": "y", "showarrow": False}
    red, grey = {"size": 11, "color": LIMIT}, {"size": 11, "color": NEUTRAL}
    words: list[dict[str, Any]] = []
    if axis.limit is not None and (at := axis.limit_value) is not None:
        words.append(
            {
                **common,
                "text": escape(show_limit(axis.limit)),
                "xref": "x",
                "x": log10(at) if span.log else at,
                "yref": "paper",
                "y": 1,
                "textangle": -90,
                "xanchor": "right",
                "yanchor": "top",
                "font": red,
            }
        )
    if (floor := _shown_floor(result, vertical)) is not None:
        text = f"accuracy at least {show_score(floor)}"
        words.append({**common, "text": text, "x": 0.004, "y": floor, "xanchor": "left", "yanchor": "top", "font": red})
    if scene.early:
        words.append(
            {
                **common,
                "text": "rejected before accuracy",
                "yref": "y2",
                "x": 0.004,
                "y": 0.95,
                "xanchor": "left",
                "yanchor": "top",
                "font": grey,
            }
        )
    if hidden:
        text = f"{hidden} trial{'s' * (hidden > 1)} below this range; double-click to see all"
        words.append(
            {
                **common,
                "text": text,
                "x": 0.996,
                "y": vertical.low,
                "xanchor": "right",
                "yanchor": "bottom",
                "font": grey,
            }
        )
    return words


def _shown_floor(result: SearchResult, vertical: Range) -> float | None:
    floor = accuracy_floor(result)
    return floor if floor is not None and vertical.low < floor < vertical.high else None


def _translucent(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.45)"


def _errors(value: float | None, interval: tuple[float, float] | None) -> tuple[float, float]:
    if value is None or interval is None:
        return 0.0, 0.0
    return max(0.0, interval[1] - value), max(0.0, value - interval[0])


def _hover(trial: TrialResult, result: SearchResult) -> str:
    """The whole candidate and what was found of it, as plotly's small HTML."""
    rows = [
        f"<b>#{trial.number} {escape(trial.label)}</b>  {escape(ending_of(trial))}",
        *(escape(row) for row in (*_recipe(trial), *_findings(trial, result)) if row),
        f"<i>{escape(reason[:200])}</i>" if (reason := why_not(trial)) else "",
    ]
    return "<br>".join(row for row in rows if row)


def _recipe(trial: TrialResult) -> list[str]:
    candidate = trial.candidate
    knobs = all_knobs(candidate)
    return [
        f"{candidate.quantization.scheme}, pruning {pruning_of(candidate)}, batch {candidate.batch_size}, "
        f"threads {candidate.runtime.threads}, {candidate.target}",
        ", ".join(f"{name}={value}" for name, value in knobs.items()),
    ]


def _findings(trial: TrialResult, result: SearchResult) -> list[str]:
    latency, at = trial.latency_ms, result.percentile
    found = []
    if latency is not None:
        spread = show_interval("latency_ms", latency.ci95)
        unclean = "" if latency.clean else ", measured beside other programs"
        found.append(f"latency p50 {show_ms(latency.p50)}, {at} {show_ms(trial.latency_at(at))} ({spread}){unclean}")
    if trial.speedup is not None:
        found.append(f"{show_speedup(trial.speedup.value, trial.speedup.ci95)} as fast as eager fp32, timed in turn")
    if trial.throughput_per_s is not None:
        found.append(f"throughput {show_rate(trial.throughput_per_s)}")
    if trial.bucketing is not None:
        gain = show_speedup(trial.bucketing.gain.value, trial.bucketing.gain.ci95)
        found.append(f"batches from {len(trial.bucketing.edges)} buckets: {gain} those as they come")
    if trial.accuracy is not None:
        spread = show_interval("accuracy", trial.accuracy_ci95)
        drop = show_drop(trial.accuracy_drop, is_share(trial))
        found.append(f"accuracy {show_score(trial.accuracy)}{f' ({spread})' if spread else ''}, drop {drop}")
    if trial.size_bytes is not None:
        found.append(f"size {show_bytes(trial.size_bytes)}")
    return found
