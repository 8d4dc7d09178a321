"""Whether two instruments agree: readings in pairs, their ratios, and the report on them in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from evaluators.statistics import percentile_interval
from evaluators.target import probe_target, versions

WITHIN = 0.05
RESOLUTION = WITHIN / 2
"""Where LoadGen itself takes a larger share of a call, it cannot tell 5 % from its own cost: shown and not judged."""
MOST_WAITED = 0.02
"""A slice whose threads waited longer for a processor, in seconds per second, was disturbed by another program."""

LEAST_PAIRS = 6
"""The fewest whose least and most ratio have the median between them with 95 % confidence: 1 - 2 * 0.5**6 = 0.97."""


@dataclass(frozen=True)
class Reading:
    """What an instrument said of one slice; ``waited`` is the share of it that threads waited for a processor."""

    p90_ms: float
    waited: float = 0.0

    @property
    def disturbed(self) -> bool:
        """Whether other programs used the processor meanwhile."""
        return self.waited > MOST_WAITED


@dataclass(frozen=True)
class Pair:
    """One slice of each instrument, one right after the other."""

    paretune: Reading
    loadgen: Reading

    @property
    def ratio(self) -> float:
        """LoadGen's p90 over paretune's."""
        return self.loadgen.p90_ms / self.paretune.p90_ms

    @property
    def disturbed(self) -> bool:
        """Whether either slice was."""
        return self.paretune.disturbed or self.loadgen.disturbed


@dataclass(frozen=True)
class Row:
    """All pairs of one bundle. Disturbed ones are shown where there are too few others, and never agree."""

    label: str
    pairs: tuple[Pair, ...] = ()
    error: str | None = None

    @property
    def counted(self) -> tuple[Pair, ...]:
        """The pairs that the ratio is drawn from."""
        return self._undisturbed if self.clean else self.pairs

    @property
    def clean(self) -> bool:
        """Whether there are enough pairs that no other program disturbed."""
        return len(self._undisturbed) >= LEAST_PAIRS

    @property
    def ratio(self) -> float:
        """The median of the pairs' ratios."""
        return statistics.median(pair.ratio for pair in self.counted)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of that median."""
        return percentile_interval([pair.ratio for pair in self.counted], 0.5)

    @property
    def sure(self) -> bool:
        """Whether more pairs would hardly change whether the two agree: the interval lies inside of 5 %, or outside."""
        if not self.clean:
            return False
        low, high = self.interval
        return (low >= 1 - WITHIN and high <= 1 + WITHIN) or low > 1 + WITHIN or high < 1 - WITHIN

    @property
    def agrees(self) -> bool:
        """Whether the two instruments are surely comparable, and within 5 % of each other."""
        return self.error is None and self.clean and abs(self.ratio - 1) <= WITHIN

    def resolved(self, overhead_ms: float) -> bool:
        """Whether what LoadGen takes for a call that does nothing is small beside this bundle's calls."""
        return bool(self.pairs) and overhead_ms <= RESOLUTION * statistics.median(p.paretune.p90_ms for p in self.pairs)

    @property
    def backend(self) -> str:
        """The first word of the label."""
        return self.label.partition(" ")[0]

    @property
    def _undisturbed(self) -> tuple[Pair, ...]:
        return tuple(pair for pair in self.pairs if not pair.disturbed)


def p90_ms_of(summary: str) -> float:
    """Read the 90th percentile in ms from the text of LoadGen's ``mlperf_log_summary.txt``.

    Raises:
        ValueError: there is none, or LoadGen calls the run invalid.
    """
    facts = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in summary.splitlines())}
    if facts.get("Result is") != "VALID":
        raise ValueError(f"LoadGen's result is {facts.get('Result is')!r}, not VALID:\n{summary}")
    return int(facts["90.00 percentile latency (ns)"]) / 1e6


@dataclass(frozen=True)
class Report:
    """What was found, and under which circumstances."""

    rows: Sequence[Row]
    overhead_ms: float
    rounds: tuple[int, int]
    seconds: float
    command: str
    took_s: float
    load_before: float

    @property
    def judged(self) -> list[Row]:
        """The bundles that LoadGen can judge, and those that failed."""
        return [row for row in self.rows if row.error is not None or row.resolved(self.overhead_ms)]

    @property
    def holds(self) -> bool:
        """Whether the instruments agree on every bundle that can be judged, and each backend has such a one."""
        judged = self.judged
        everyone = {row.backend for row in judged} == {row.backend for row in self.rows}
        return bool(judged) and everyone and all(row.agrees for row in judged)

    def markdown(self) -> str:
        """Return the report as Markdown."""
        target = probe_target()
        libraries = versions("paretune", "torch", "onnxruntime", "openvino", "mlcommons-loadgen")
        facts = ", ".join(f"{name} {version}" for name, version in libraries.items())
        lines = [
            f"\n## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: the p90 of paretune and of MLPerf LoadGen\n",
            f"`{self.command}`\n",
            f"{target.name}, {target.processor}, {target.cores} cores; {facts}; "
            f"load average {self.load_before:.1f} before; {self.took_s:.0f} s.\n",
            "| bundle | paretune p90 ms | LoadGen p90 ms | ratio | its 95 % interval | all pairs | corrected | pairs |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *(line_of(row, self.overhead_ms) for row in self.rows),
            f"\nRatio: LoadGen's p90 over paretune's, the median over pairs of slices of {self.seconds:g} s taken in "
            f"turn in {self.rounds[0]} to {self.rounds[1]} pairs of fresh processes, until the 95 % interval of that "
            "median lies within 5 % of 1 or outside of it; then the interval, and the least and most of all pairs that "
            "count. Pairs in which another program took the processor were taken again; where "
            f"fewer than {LEAST_PAIRS} others are left, all are shown and the bundle has no verdict. Corrected: less "
            f"what LoadGen takes for a call that does nothing, {self.overhead_ms * 1e3:.2f} µs; beside a model, which "
            f"displaces it from the caches, it takes more. Where that is over {RESOLUTION:.1%} of a call, the bundle "
            "is shown and not judged.\n",
            f"- {sum(row.agrees for row in self.judged)} of {len(self.judged)} bundles that LoadGen can judge were "
            f"measured undisturbed and agree within {WITHIN:.0%}; all do, and every backend has one: "
            f"**{'yes' if self.holds else 'no'}**.\n",
        ]
        return "\n".join(lines)


def line_of(row: Row, overhead: float) -> str:
    """Return one bundle's line of the table."""
    if row.error is not None:
        return f"| {row.label} | {row.error} | | | | | | |"
    ratios = [pair.ratio for pair in row.counted]
    low, high = row.interval
    ours = statistics.median(pair.paretune.p90_ms for pair in row.counted)
    theirs = statistics.median(pair.loadgen.p90_ms for pair in row.counted)
    corrected = statistics.median((pair.loadgen.p90_ms - overhead) / pair.paretune.p90_ms for pair in row.counted)
    disturbed = sum(pair.disturbed for pair in row.pairs)
    ratio = f"**{row.ratio:.3f}**" if row.resolved(overhead) else f"{row.ratio:.3f}, not judged"
    return (
        f"| {row.label} | {ours:.4f} | {theirs:.4f} | {ratio} | {low:.3f} to {high:.3f} "
        f"| {min(ratios):.3f} to {max(ratios):.3f} | {corrected:.3f} "
        f"| {len(row.counted)}{f', {disturbed} disturbed' if disturbed else ''} |"
    )
