"""How a search went, on one page: its fronts over time, what they dominate, and what each factor is worth."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from search.batch_charts import MOST_CURVES, batching_figure
from search.history import Moment, moments_of, turning_points
from search.palette import NEUTRAL, STAR
from search.result import SearchResult, TrialResult
from search.saturation import curves_of, show_saturation
from search.scene import axes_of
from search.style import apply_style
from search.wording import in_shares, show_speedup
from search.worth import Worth, show_worth, worth_of

_MOST_FRONTS = 8
_EARLY, _LATE = (200, 214, 229), (0, 82, 147)
_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font-family: system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif; color: #2B3440; margin: 16px; }}
h2 {{ font-size: 17px; margin: 24px 0 4px; }} p, li {{ font-size: 13px; max-width: 62em; }}
</style></head><body>{body}</body></html>"""


def story_page(result: SearchResult, trials: Sequence[TrialResult]) -> str:
    """Return how the search went as one HTML page that needs no network."""
    moments, worth = moments_of(result, trials), worth_of(result, trials)
    parts: list[tuple[str, str, Any, tuple[str, ...]]] = [
        ("The front over time", "Each line is the front after so many trials, the darkest is the last.",
         fronts_figure(moments, result), ()),
        ("Hypervolume of the front", "How much the front dominates beyond the original model and the accuracy limit: "
         "times better than the original, less one, by accuracy above the limit"
         f"{', in percentage points' if in_shares(result) else ''}.", hypervolume_figure(moments), ()),
    ]  # fmt: skip
    if worth is not None:
        parts.append(
            ("What each factor is worth", f"Examples per second on the way from {worth.start_label} (trial "
             f"#{worth.start}) to the best, over trials that were measured. Another order of the factors would share "
             "the gain out differently.", worth_figure(worth), tuple(show_worth(worth)))
        )  # fmt: skip
    if curves := curves_of(trials):
        parts.append(
            ("Throughput over batch size", "A diamond marks where it saturates: no larger batch that was measured "
             "gains 5 % or more.", batching_figure(curves),
             tuple(f"{curve.label}: {show_saturation(curve)}" for curve in curves[:MOST_CURVES]))
        )  # fmt: skip
    body = "".join(_section(*part, first=number == 0) for number, part in enumerate(parts))
    return _PAGE.format(title=escape(result.name), body=body)


def fronts_figure(moments: Sequence[Moment], result: SearchResult) -> Any:
    """Draw the fronts at the moments at which they changed."""
    import plotly.graph_objects as go

    axis, shown = axes_of(result)[0], turning_points(moments, _MOST_FRONTS)
    figure = go.Figure()
    for number, moment in enumerate(shown):
        last = number == len(shown) - 1
        colour = _between(number / max(1, len(shown) - 1))
        figure.add_trace(go.Scatter(
            x=[axis.value(trial) for trial in moment.front], y=[trial.accuracy for trial in moment.front],
            mode="lines+markers", name=f"after {moment.trials} trial{'s' * (moment.trials > 1)}",
            line={"shape": "hv", "color": colour, "width": 2.6 if last else 1.6},
            marker={"color": colour, "size": 9 if last else 6},
            hovertext=[f"#{trial.number} {escape(trial.label)}" for trial in moment.front],
            hovertemplate="%{hovertext}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
        ))  # fmt: skip
    apply_style(figure)
    figure.update_layout(height=380, margin={"l": 70, "r": 20, "t": 20, "b": 50})
    figure.update_xaxes(title_text=axis.title)
    figure.update_yaxes(title_text="accuracy", tickformat=".4~%" if in_shares(result) else None)
    return figure


def hypervolume_figure(moments: Sequence[Moment]) -> Any:
    """Draw what the front dominates over the number of finished trials."""
    import plotly.graph_objects as go

    known = [moment for moment in moments if moment.hypervolume is not None]
    figure = go.Figure(
        go.Scatter(x=[moment.trials for moment in known], y=[moment.hypervolume for moment in known], mode="lines",
                   name="hypervolume", line={"shape": "hv", "color": "#0072B2", "width": 2.2})
    )  # fmt: skip
    apply_style(figure)
    figure.update_layout(height=300, margin={"l": 70, "r": 20, "t": 20, "b": 50})
    figure.update_xaxes(title_text="finished trials")
    figure.update_yaxes(title_text="hypervolume", rangemode="tozero")
    return figure


def worth_figure(worth: Worth) -> Any:
    """Draw the gain of every step and of all together, with their 95 % intervals."""
    import plotly.graph_objects as go

    ratios = {" and ".join(step.factors): step.ratio for step in worth.steps} | {"together": worth.total}
    texts = [step.change for step in worth.steps] + [f"#{worth.start} → best"]
    names, values = list(ratios), list(ratios.values())
    figure = go.Figure(go.Bar(
        x=[ratio.value - 1 for ratio in values], base=1, y=names, orientation="h", width=0.55,
        text=[f"{show_speedup(ratio.value)}  {escape(text)}" for ratio, text in zip(values, texts, strict=True)],
        textposition="outside", cliponaxis=False, hoverinfo="skip",
        marker={"color": [*(["#0072B2"] * len(worth.steps)), STAR]},
        error_x={"type": "data", "symmetric": False, "color": NEUTRAL, "thickness": 1.2,
                 "array": [ratio.ci95[1] - ratio.value for ratio in values],
                 "arrayminus": [ratio.value - ratio.ci95[0] for ratio in values]},
    ))  # fmt: skip
    apply_style(figure)
    figure.update_layout(height=110 + 46 * len(names), margin={"l": 160, "r": 220, "t": 20, "b": 50}, showlegend=False)
    figure.update_xaxes(title_text="times the examples per second")
    figure.update_yaxes(autorange="reversed")
    return figure


def _section(title: str, about: str, figure: Any, lines: Sequence[str], *, first: bool) -> str:
    drawn = figure.to_html(full_html=False, include_plotlyjs=first)
    listed = f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""
    return f"<h2>{escape(title)}</h2><p>{escape(about)}</p>{drawn}{listed}"


def _between(share: float) -> str:
    """Return the colour at a share of the way from the earliest front to the last."""
    mixed = (round(early + share * (late - early)) for early, late in zip(_EARLY, _LATE, strict=True))
    return f"rgb({','.join(map(str, mixed))})"
