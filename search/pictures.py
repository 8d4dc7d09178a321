"""The front as a static picture, drawn by matplotlib: for MLflow, for a README, for a mail."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from search.palette import LIMIT, MATPLOTLIB_SYMBOLS, NEUTRAL, STAR, colours, symbols
from search.result import SearchResult, TrialResult
from search.scene import (
    Axis,
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
from search.style import INK
from search.wording import distinct_labels, headline, in_shares, show_limit, show_score

_INCHES, _DOTS_PER_INCH = (16.0, 10.0), 100
_OFFSETS = tuple(
    (x, y) for reach in (1.0, 1.9, 2.9, 4.2) for x, y in
    ((0, 20 * reach), (0, -24 * reach), (22 * reach, 12 * reach), (-22 * reach, 12 * reach), (22 * reach, -14 * reach),
     (-22 * reach, -14 * reach), (26 * reach, 0), (-26 * reach, 0))
)  # fmt: skip


def pareto_png(result: SearchResult, trials: Sequence[TrialResult], path: Path) -> Path:
    """Write the front as a PNG of 1600 × 1000 pixels and return its path; needs no display and no browser."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scene, axis = scene_of(result, trials), axes_of(result)[0]
    figure = Figure(figsize=_INCHES, dpi=_DOTS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    heights = (0.93, 0.07) if scene.early else (0.995, 0.005)
    grid = figure.add_gridspec(2, 1, height_ratios=heights, hspace=0.02, left=0.065, right=0.80, top=0.88, bottom=0.08)
    upper = figure.add_subplot(grid[0])
    lower = figure.add_subplot(grid[1], sharex=upper)
    _Picture(result, scene, axis, upper, lower).draw()
    figure.text(
        0.012, 0.955, f"{result.name} on {', '.join(result.targets)}", fontsize=19, fontweight="bold", color=INK
    )
    figure.text(0.012, 0.918, _folded(headline(result)), fontsize=13.5, color=INK, va="center")
    figure.savefig(path)
    return path


class _Picture:
    """One picture: the scene over one axis, accuracy above, trials without accuracy in a strip below."""

    def __init__(self, result: SearchResult, scene: Scene, axis: Axis, upper: Any, lower: Any) -> None:
        self.result, self.scene, self.axis = result, scene, axis
        self.upper, self.lower = upper, lower
        everything = (*scene.drawn, *scene.early, *scene.marks.values())
        self.colours = colours(trial.candidate.backend for trial in everything)
        self.symbols = symbols(trial.candidate.pruning.structure for trial in everything)
        self.horizontal = horizontal_range(axis, everything)
        self.vertical, self.hidden = vertical_range(result, scene)

    def draw(self) -> None:
        self._frame()
        self._limits()
        self._trials()
        self._marks()
        self._labels()
        self._legend()

    def _frame(self) -> None:
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        upper, lower = self.upper, self.lower
        if self.horizontal.log:
            upper.set_xscale("log")
            lower.xaxis.set_major_locator(FixedLocator(ticks_of(self.horizontal)))
            lower.xaxis.set_minor_locator(NullLocator())
        lower.xaxis.set_major_formatter(FuncFormatter(lambda value, _: show_tick(value)))
        if in_shares(self.result):
            upper.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value * 100:.4g} %"))
        upper.set_xlim(self.horizontal.low, self.horizontal.high)
        upper.set_ylim(self.vertical.low, self.vertical.high)
        scored = f" ({self.result.scored_by})" if self.result.scored_by else ""
        upper.set_ylabel(f"accuracy{scored}", fontsize=14, color=INK)
        lower.set_xlabel(self.axis.title, fontsize=14, color=INK)
        lower.set_ylim(-1, 1)
        lower.set_yticks([])
        upper.tick_params(axis="x", length=0, labelbottom=False)
        for plot in (upper, lower):
            plot.grid(True, color="#E3E7EC", linewidth=0.9)
            plot.set_axisbelow(True)
            plot.spines[["top", "right"]].set_visible(False)
            plot.spines[["left", "bottom"]].set_color("#B8C0C9")
            plot.tick_params(colors=INK, labelsize=12)
        small = {"fontsize": 11, "color": NEUTRAL}
        if self.scene.early:
            lower.text(0.004, 0.82, "rejected before accuracy", transform=lower.transAxes, va="top", **small)
        if self.hidden:
            text = f"{self.hidden} trial{'s' * (self.hidden > 1)} below this range"
            upper.text(0.996, 0.008, text, transform=upper.transAxes, ha="right", va="bottom", **small)

    def _limits(self) -> None:
        line = {"color": LIMIT, "linestyle": (0, (6, 4)), "linewidth": 1.6}
        tint = {"color": LIMIT, "alpha": 0.05, "linewidth": 0}
        if self.axis.limit is not None and (at := self.axis.limit_value) is not None:
            for plot in (self.upper, self.lower):
                plot.axvline(at, **line)
                plot.axvspan(at, self.horizontal.high, **tint)
            self.upper.annotate(show_limit(self.axis.limit), (at, 0.99), xycoords=self.upper.get_xaxis_transform(),
                                xytext=(-5, 0), textcoords="offset points", rotation=90, va="top", ha="right",
                                color=LIMIT, fontsize=11.5)  # fmt: skip
        floor = accuracy_floor(self.result)
        if floor is not None and self.vertical.low < floor < self.vertical.high:
            self.upper.axhline(floor, **line)
            self.upper.axhspan(self.vertical.low, floor, **tint)
            text = f"accuracy at least {show_score(floor)}"
            self.upper.annotate(text, (0.006, floor), xycoords=self.upper.get_yaxis_transform(), xytext=(0, -5),
                                textcoords="offset points", va="top", color=LIMIT, fontsize=11.5)  # fmt: skip

    def _trials(self) -> None:
        for trial in self.scene.missed:
            self._cross(self.upper, trial, trial.accuracy)
        for trial in self.scene.early:
            self._cross(self.lower, trial, -0.35)
        for trial in self.scene.dominated:
            self._point(trial, size=62, alpha=0.38, edgecolors="none", zorder=3)
        for trial in self.scene.undecided:
            self._doubt(trial)
        steps = self._steps()
        self.upper.plot([x for x, _ in steps], [y for _, y in steps], color=NEUTRAL, linewidth=1.8, zorder=4)
        for trial in self.scene.front:
            self._bars(trial)
            self._point(trial, size=150, edgecolors="white", linewidths=1.4, zorder=6)

    def _steps(self) -> list[tuple[float | None, float | None]]:
        """The corners of the front: across to the next trial, then up."""
        line = [(self.axis.value(trial), trial.accuracy) for trial in self.scene.front]
        return [point for i, (x, y) in enumerate(line) for point in ([(x, line[i - 1][1])] if i else []) + [(x, y)]]

    def _cross(self, plot: Any, trial: TrialResult, height: float | None) -> None:
        x = self.axis.value(trial)
        if x is not None:
            colour = self.colours[trial.candidate.backend]
            plot.scatter([x], [height], marker="x", s=46, linewidths=1.7, alpha=0.6, color=colour, zorder=2)

    def _point(self, trial: TrialResult, *, size: float, **style: Any) -> None:
        marker = MATPLOTLIB_SYMBOLS[self.symbols[trial.candidate.pruning.structure]]
        colour = self.colours[trial.candidate.backend]
        self.upper.scatter([self.axis.value(trial)], [trial.accuracy], marker=marker, s=size, color=colour, **style)

    def _doubt(self, trial: TrialResult) -> None:
        """Draw an undecided trial: hollow, with a question mark, and with the intervals that reach over a limit."""
        self._bars(trial)
        self._point(trial, size=170, facecolors="white", linewidths=1.6, zorder=5.5)
        place = (self.axis.value(trial), trial.accuracy)
        colour = self.colours[trial.candidate.backend]
        self.upper.plot(*place, marker="$?$", markersize=7, color=colour, markeredgewidth=0.4, zorder=5.6)

    def _bars(self, trial: TrialResult) -> None:
        x, across, along = self.axis.value(trial), self.axis.interval(trial), accuracy_interval(trial, self.result)
        style = {"color": self.colours[trial.candidate.backend], "alpha": 0.45, "linewidth": 1.4, "zorder": 5}
        if along is not None:
            self.upper.plot([x, x], along, **style)
        if across is not None:
            self.upper.plot(across, [trial.accuracy] * 2, **style)

    def _marks(self) -> None:
        for name, trial in reversed(self.scene.marks.items()):
            place, colour = ([self.axis.value(trial)], [trial.accuracy]), self.colours[trial.candidate.backend]
            if name == "best":
                self.upper.scatter(
                    *place, marker="*", s=620, color=STAR, edgecolors="#4A3B00", linewidths=1.3, zorder=8
                )
            else:
                marker = {"baseline": "o", "best float": "h"}.get(name, "D")
                self.upper.scatter(
                    *place, marker=marker, s=260, facecolors="none", edgecolors=colour, linewidths=2.4, zorder=7
                )

    def _labels(self) -> None:
        """Name the marks and the front, each where it covers least of what is drawn already."""
        renderer = self.upper.figure.canvas.get_renderer()
        labels = distinct_labels(self.scene.front)
        named = {trial.number: f"{name} ({trial.candidate.backend})" for name, trial in self.scene.marks.items()}
        named |= labels
        for name, trial in self.scene.marks.items():
            if trial.number in labels:
                named[trial.number] = f"{name}: {labels[trial.number]}"
        shown = [trial for trial in (*self.scene.marks.values(), *self.scene.front) if trial.number in named]
        taken = [box for trial in (*self.scene.drawn, *self.scene.marks.values()) for box in self._covered(trial)]
        taken += [_around(*pair) for pair in pairwise(self.upper.transData.transform(self._steps() or [(1, 1)]))]
        taken += [written.get_window_extent(renderer) for written in self.upper.texts]
        taken += [line.get_window_extent(renderer).padded(3) for line in self.upper.lines if line.is_dashed()]
        frame, done = self.upper.get_window_extent(renderer), set()
        for trial in shown:
            if trial.number in done or self._pixel(trial) is None:
                continue
            done.add(trial.number)
            text = self._label(trial, named[trial.number])
            taken.append(_settle(text, renderer, taken, frame))

    def _pixel(self, trial: TrialResult) -> tuple[float, float] | None:
        x = self.axis.value(trial)
        if x is None or trial.accuracy is None or trial.accuracy < self.vertical.low:
            return None
        place = self.upper.transData.transform((x, trial.accuracy))
        return float(place[0]), float(place[1])

    def _covered(self, trial: TrialResult) -> list[Any]:
        """The boxes, in pixels, that a trial's symbol and its confidence bar take."""
        from matplotlib.transforms import Bbox

        centre = self._pixel(trial)
        if centre is None:
            return []
        marked = trial.number in {mark.number for mark in self.scene.marks.values()}
        ahead = trial.number in {item.number for item in self.scene.front}
        half = 17 if marked else 9 if ahead else 6
        boxes = [Bbox.from_bounds(centre[0] - half, centre[1] - half, 2 * half, 2 * half)]
        if ahead and (along := accuracy_interval(trial, self.result)):
            low, high = (float(self.upper.transData.transform((1, bound))[1]) for bound in along)
            boxes.append(Bbox.from_extents(centre[0] - 2, low, centre[0] + 2, high))
        return boxes

    def _label(self, trial: TrialResult, words: str) -> Any:
        best = self.result.best is not None and trial.number == self.result.best.number
        lead = {"arrowstyle": "-", "color": NEUTRAL, "linewidth": 0.7, "shrinkA": 0, "shrinkB": 7}
        halo = {"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75}
        return self.upper.annotate(
            words, (self.axis.value(trial), trial.accuracy), xytext=_OFFSETS[0], textcoords="offset points",
            ha="center", fontsize=12.5 if best else 11, fontweight="bold" if best else "normal", color=INK, zorder=9,
            arrowprops=lead, bbox=halo,
        )  # fmt: skip

    def _legend(self) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        dot: dict[str, Any] = {"linestyle": "none", "color": NEUTRAL, "markersize": 9}
        entries: list[Any] = [Patch(color=colour, label=name) for name, colour in self.colours.items()]
        for name, symbol in self.symbols.items():
            words = "unpruned" if name == "none" else f"{name} pruning"
            entries.append(Line2D([], [], marker=MATPLOTLIB_SYMBOLS[symbol], label=words, **dot))
        entries.append(Line2D([], [], color=NEUTRAL, label=f"Pareto front: {len(self.scene.front)}"))
        faint: dict[str, Any] = {**dot, "alpha": 0.4}
        entries.append(Line2D([], [], marker="o", label=f"feasible, beaten: {len(self.scene.dominated)}", **faint))
        hollow: dict[str, Any] = {**dot, "markerfacecolor": "none"}
        entries.append(Line2D([], [], marker="$?$", label=f"undecided: {len(self.scene.undecided)}", **hollow))
        missed = len(self.scene.missed) + len(self.scene.early)
        entries.append(Line2D([], [], marker="x", label=f"over a limit: {missed}", **dot))
        entries.append(Line2D([], [], linestyle="none", label=f"failed: {len(self.scene.failed)}"))
        self.upper.legend(handles=entries, loc="upper left", bbox_to_anchor=(1.015, 1.0), frameon=False, fontsize=12.5,
                          labelcolor=INK, labelspacing=0.75)  # fmt: skip


def _settle(text: Any, renderer: Any, taken: list[Any], frame: Any) -> Any:
    """Move a label to the offset where it covers least; return the place it takes."""
    best: tuple[float, Any, Any] | None = None
    for rank, offset in enumerate(_OFFSETS):
        across = {True: "left", False: "right"}[offset[0] > 0] if offset[0] else "center"
        text.set(position=offset, ha=across)
        box = text.get_window_extent(renderer)
        covered = sum(_overlap(box, other) for other in taken)
        outside = box.width * box.height - _overlap(box, frame)
        cost = covered + 20 * max(0.0, outside) + 12 * (rank // 8)
        if best is None or cost < best[0]:
            best = (cost, offset, across)
    if best is not None:
        text.set(position=best[1], ha=best[2])
    return text.get_window_extent(renderer)


def _around(start: Any, end: Any) -> Any:
    """The box around a line between two pixels."""
    from matplotlib.transforms import Bbox

    (x0, x1), (y0, y1) = sorted((start[0], end[0])), sorted((start[1], end[1]))
    return Bbox.from_extents(x0 - 3, y0 - 3, x1 + 3, y1 + 3)


def _overlap(one: Any, other: Any) -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(max(0.0, width) * max(0.0, height))


def _folded(sentence: str, width: int = 150) -> str:
    from textwrap import fill

    return fill(sentence, width)
