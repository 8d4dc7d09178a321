"""What do early verdicts save, and does another program on the machine change who passes?

    python benchmarks/protocols.py

Runs a small search on the image example and then measures every bundle that it measured again, through the same jobs as
the search: with the sequential protocol, with the fixed one (the time of its last look, whatever the verdict), and with
the sequential one while another process burns one core. Asked: at least 40 % of the measuring time saved with the same
verdicts, and the same candidates pass beside the burning process. Exit code 0 if so, 1 if not.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import report
from bundles import IMAGES, Workshop
from results import record

import search
from evaluators.jobs import MeasureJob, Protocol
from evaluators.outcome import Outcome
from search import api
from search.result import TrialResult

SAVED = 0.4
BURN = "while True: pass"


@dataclass(frozen=True)
class Row:
    """One candidate under the three conditions."""

    label: str
    sequential: Outcome
    fixed: Outcome
    beside: Outcome


def verdict(outcome: Outcome, metric: str) -> str:
    """Return the verdict on one metric, or how the trial ended without one."""
    return next((v.status for v in outcome.verdicts if v.constraint.metric == metric), outcome.kind)


def passes(outcome: Outcome) -> str:
    """Return whether everything that was judged passes, fails, or is undecided."""
    if outcome.kind == "failed":
        return "failed"
    statuses = {v.status for v in outcome.verdicts}
    return next((status for status in ("fail", "undecided") if status in statuses), "pass")


def seconds(outcome: Outcome) -> float:
    """Return the seconds of the latency stage."""
    return outcome.stage_seconds.get("latency", 0.0)


@contextmanager
def burning(wanted: bool) -> Iterator[None]:
    """Keep one core busy with a process of its own."""
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", BURN])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def measure(workshop: Workshop, trial: TrialResult, job: MeasureJob, *, beside: bool) -> Outcome:
    """Run a measure job again."""
    with burning(beside):
        outcome = workshop.run(job, f"measure-{trial.number}").outcome
    if outcome is None:
        raise SystemExit(f"trial {trial.number} was not measured again")
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-budget-ms", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    given = parser.parse_args()
    facts = report.machine()
    with tempfile.TemporaryDirectory(prefix="protocols-") as home:
        result = search.run(IMAGES, home=home, latency_budget_ms=given.latency_budget_ms, threads=given.threads,
                            trials=given.trials)  # fmt: skip
        trials = [trial for trial in api.trials(result.search, Path(home)) if trial.bundle and trial.latency_ms]
        workshop = Workshop(Path(home), given.threads)
        profile = workshop.profile()
        rows = []
        for trial in trials:
            job = MeasureJob(bundle=str(trial.bundle), profile=profile, home=home, constraints=result.constraints)
            protocol = Protocol()
            fixed = job.model_copy(update={"protocol": protocol.model_copy(update={"looks": protocol.looks[-1:]})})
            rows.append(Row(trial.label, measure(workshop, trial, job, beside=False),
                            measure(workshop, trial, fixed, beside=False),
                            measure(workshop, trial, job, beside=True)))  # fmt: skip
            print(f"{trial.label}: {passes(rows[-1].sequential)} {passes(rows[-1].fixed)} {passes(rows[-1].beside)}",
                  file=sys.stderr, flush=True)  # fmt: skip
        workshop.close()
    metric = result.constraints[0].metric
    return conclude(rows, metric, given, facts)


def conclude(rows: Sequence[Row], metric: str, given: argparse.Namespace, facts: dict[str, Any]) -> int:
    """Write the section and say whether what was asked holds."""
    spent, fixed = (sum(seconds(getattr(row, name)) for row in rows) for name in ("sequential", "fixed"))
    saved = 1 - spent / fixed
    other = [row.label for row in rows if verdict(row.sequential, metric) != verdict(row.fixed, metric)]
    changed = [row.label for row in rows if (passes(row.sequential) == "pass") != (passes(row.beside) == "pass")]
    blocks = sum(row.beside.evidence.latency.polluted for row in rows if row.beside.evidence.latency)
    quiet = sum(row.sequential.evidence.latency.polluted for row in rows if row.sequential.evidence.latency)
    unclean = sum(not row.beside.evidence.latency.clean for row in rows if row.beside.evidence.latency)
    holds = saved >= SAVED and not other and not changed
    cells = [
        f"| {row.label} | {value(row.sequential):.3f} | {verdict(row.sequential, metric)} | "
        f"{seconds(row.sequential):.2f} | {value(row.fixed):.3f} | {verdict(row.fixed, metric)} | "
        f"{seconds(row.fixed):.2f} | {value(row.beside):.3f} | {verdict(row.beside, metric)} | "
        f"{passes(row.sequential)} → {passes(row.beside)} |"
        for row in rows
    ]
    text = "\n".join([
        f"## {facts['date']}: early verdicts, and another program on one core, {facts['processor']}", "",
        f"`python benchmarks/protocols.py {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        f"{metric} at most {given.latency_budget_ms:g}; {given.threads} thread(s).", "",
        "| candidate | sequential: ms | verdict | s | fixed: ms | verdict | s | beside a burning process: ms | verdict "
        "| all limits, quiet → beside |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |", *cells, "",
        f"- Measuring one candidate's latency, warm-up and reference included: median "
        f"{statistics.median(seconds(row.sequential) for row in rows):.2f} s, with the fixed protocol "
        f"{statistics.median(seconds(row.fixed) for row in rows):.2f} s; {saved:.0%} of all of it saved (asked: "
        f"{SAVED:.0%}); other verdicts on latency: {', '.join(other) or 'none'}.",
        f"- Beside a process that burns one core, {blocks} blocks were thrown away and timed again ({quiet} without "
        f"it), {unclean} candidates were never clean; candidates that no longer pass or pass only then: "
        f"{', '.join(changed) or 'none'}.",
        f"- **{'Holds' if holds else 'Does not hold'}.**", "",
    ])  # fmt: skip
    record(text, keep=given.record)
    return 0 if holds else 1


def value(outcome: Outcome) -> float:
    """Return the constrained latency in ms."""
    return outcome.evidence.latency.value if outcome.evidence.latency else float("nan")


if __name__ == "__main__":
    sys.exit(main())
