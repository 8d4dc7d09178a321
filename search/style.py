"""The look that all interactive figures share: neutral, so that a page can turn it dark."""

from __future__ import annotations

from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
INK = "#2B3440"
_GRID, _EDGE = "rgba(128,140,155,0.22)", "rgba(128,140,155,0.6)"


def apply_style(figure: Any) -> None:
    """Give a plotly figure the shared fonts, a transparent background and quiet axes."""
    figure.update_layout(
        template="none",
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,140,155,0.7)", "activecolor": "#0072B2"},
        hoverlabel={"align": "left", "font": {"family": FONT, "size": 12}},
    )
    lines = {"gridcolor": _GRID, "zeroline": False, "linecolor": _EDGE, "showline": True}
    figure.update_xaxes(ticks="outside", tickcolor=_EDGE, **lines)
    figure.update_yaxes(automargin=True, **lines)
