"""Figure of batching: throughput over batch size for the fastest models, and where each saturates."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from search.curves import Curve
from search.palette import STAR, colours
from search.saturation import show_saturation
from search.style import apply_style
from search.units import show_ms

MOST_CURVES = 8
_DASHES = ("solid", "dash", "dot", "dashdot")


def batching_figure(curves: Sequence[Curve]) -> Any:
    """Draw throughput over batch size, both on logarithmic axes, of the first 8 curves; a diamond where one saturates.

    What is said of a point is the latency of its call: that is what a larger batch costs.
    """
    import plotly.graph_objects as go

    shown = curves[:MOST_CURVES]
    palette, seen = colours(curve.backend for curve in shown), dict[str, int]()
    figure = go.Figure()
    for curve in shown:
        colour, number = palette[curve.backend], seen.get(curve.backend, 0)
        seen[curve.backend] = number + 1
        ends = [point.batch_size == curve.saturates_at for point in curve.points]
        figure.add_trace(go.Scatter(
            x=[point.batch_size for point in curve.points], y=[point.throughput_per_s for point in curve.points],
            mode="lines+markers", name=escape(curve.label),
            line={"color": colour, "width": 2, "dash": _DASHES[number % len(_DASHES)]},
            marker={"color": [STAR if end else colour for end in ends], "size": [12 if end else 7 for end in ends],
                    "symbol": ["diamond" if end else "circle" for end in ends],
                    "line": {"width": [1.5 if end else 0 for end in ends], "color": colour}},
            hovertext=[f"#{point.trial} {escape(curve.label)}, batch {point.batch_size}: a call takes "
                       f"{show_ms(point.latency_ms)}<br>{escape(show_saturation(curve))}" for point in curve.points],
            hovertemplate="%{hovertext}<br>%{y:.4g} examples/s<extra></extra>",
        ))  # fmt: skip
    apply_style(figure)
    figure.update_layout(height=380, margin={"l": 70, "r": 20, "t": 20, "b": 50})
    sizes = sorted({point.batch_size for curve in shown for point in curve.points})
    figure.update_xaxes(title_text="batch size", type="log", tickvals=sizes, ticktext=[str(size) for size in sizes])
    figure.update_yaxes(title_text="examples per second", type="log")
    return figure
