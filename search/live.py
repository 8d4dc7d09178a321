"""LiveProgress: a running search on stderr — a bar and the last trials on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from search.result import TrialCounts, TrialResult
from search.spec import SearchSpec
from search.units import show_bytes, show_ms
from search.wording import ending_of, show_cost, show_rate, show_score, show_seconds, why_not

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_LAST = 5
_COLOURS = {"measured": "green", "rejected": "yellow", "failed": "red"}


class LiveProgress:
    """Shows what a search is doing; use as a context manager.

    ``console`` should write to stderr. Where it is no terminal, each finished trial is one plain line.
    """

    def __init__(
        self, console: Console, spec: SearchSpec, total_trials: int, timeout_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._console, self._spec = console, spec
        self._total, self._timeout_s = total_trials, timeout_s
        self._clock, self._begun = clock, clock()
        self._done = 0
        self._undecided = 0
        self._running = ""
        self._best: TrialResult | None = None
        self._last: list[TrialResult] = []
        self._live: Any = None

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._begun = self._clock()
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, get_renderable=self._view, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def started(self, number: int, label: str) -> None:
        """Trial ``number`` runs now."""
        self._running = f"#{number} {label}"

    def finished(self, trial: TrialResult, counts: TrialCounts, best: TrialResult | None) -> None:
        """A trial ended; ``best`` is the best feasible one so far."""
        self._done, self._undecided, self._best, self._running = counts.total, counts.undecided, best, ""
        self._last = [*self._last, trial][-_LAST:]
        if self._live is None:
            self._say(self._line(trial))

    def note(self, text: str) -> None:
        """Say something besides the trials."""
        self._say(f"note: {text}")

    def _say(self, text: str) -> None:
        """Print one line above the live display, unfolded: a line is what scripts and logs read."""
        from rich.text import Text

        self._console.print(Text(text), soft_wrap=True)

    def _line(self, trial: TrialResult) -> str:
        """``[ 7/40] measured  onnxruntime static_int8 b1 t1  p95 0.101 ms  acc 92.10 %  (best 0.098 ms)``."""
        width = len(str(self._total))
        ending = "undecided" if trial.undecided else trial.outcome
        facts = [f"[{self._done:>{width}}/{self._total}] {ending:<9} {trial.label}", *self._facts(trial)]
        if self._best is not None:
            facts.append(f"(best {self._objective(self._best)})")
        return "  ".join(facts)

    def _facts(self, trial: TrialResult) -> list[str]:
        percentile = self._spec.percentile
        if trial.outcome == "failed":
            return [_short(trial.reason or "", 100)]
        facts = [f"{percentile} {show_ms(trial.latency_at(percentile))}"] if trial.latency_ms else []
        if trial.server is not None:
            at = f" at {show_rate(trial.server.rate_per_s)}"
            facts = [f"{percentile} of requests {show_ms(trial.server.value)}{at}"]
        if self._spec.goal != "latency" and trial.feasible:
            facts.append(self._objective(trial))
        if trial.accuracy is not None:
            facts.append(f"acc {show_score(trial.accuracy)}")
        if reason := why_not(trial).removeprefix("undecided: "):
            facts.append(_short(reason, 60))
        if trial.answered_by:
            facts.append(f"as in {trial.answered_by}")
        return facts

    def _objective(self, trial: TrialResult) -> str:
        if trial.server is not None and self._spec.goal in ("latency", "throughput"):
            found = trial.server
            return show_ms(found.value) if self._spec.goal == "latency" else show_rate(found.sustained_per_s)
        if self._spec.goal == "throughput":
            return show_rate(trial.throughput_per_s)
        if self._spec.goal == "cost":
            return f"{show_cost(trial.cost_per_million)} per million"
        if self._spec.goal == "size":
            return show_bytes(trial.size_bytes)
        return show_ms(trial.latency_at(self._spec.percentile))

    def _view(self) -> RenderableType:
        """The live display: the last trials, the best, and a bar with the time that is left."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        trials = Table.grid(padding=(0, 2))
        for trial in self._last:
            ending = Text(ending_of(trial), style="cyan" if trial.undecided else _COLOURS.get(trial.outcome, ""))
            facts = Text("  ".join(self._facts(trial)), style="dim" if trial.outcome != "measured" else "")
            trials.add_row(Text(f"#{trial.number}", style="dim"), ending, Text(trial.label), facts)
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        for _ in range(3):
            bar.add_column(no_wrap=True)
        progress = ProgressBar(total=max(1, self._total), completed=self._done)
        bar.add_row(progress, Text(f"{self._done}/{self._total} trials"), Text(show_seconds(self._elapsed)),
                    Text(self._remaining(), style="dim"))  # fmt: skip
        best = Text("best so far  ", style="bold")
        best.append(self._best_line() if self._best else "nothing feasible yet", style="green" if self._best else "dim")
        best.append(f"  ({self._undecided} undecided)" if self._undecided else "", style="cyan")
        running = Text(f"running      {self._running}" if self._running else "preparing …", style="dim")
        last: list[RenderableType] = [trials] if self._last else []
        return Group(*last, best, running, bar)

    def _best_line(self) -> str:
        return "" if self._best is None else "  ".join([self._best.label, *self._facts(self._best)])

    @property
    def _elapsed(self) -> float:
        return self._clock() - self._begun

    def _remaining(self) -> str:
        """What is left, whichever ends first: the trials at their pace so far, or the time limit."""
        left = [] if self._timeout_s is None else [max(0.0, self._timeout_s - self._elapsed)]
        if self._done:
            left.append(self._elapsed / self._done * max(0, self._total - self._done))
        return f"about {show_seconds(min(left))} left" if left else ""


def _short(text: str, longest: int) -> str:
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"
