"""What do early verdicts save, and does another program on the machine change who passes?

    python benchmarks/protocols.py

Runs a small search on the image example and then measures every bundle that it measured again. Twice through the same
jobs as the search: on the quiet machine, and while another process burns one core. And once for the fixed time of the
protocol's last look, with its calls kept: from the same calls, looked at as they came, follows what the sequential
protocol would have said and when, so that nothing that drifts between two measurements comes between the two verdicts.
Asked: at least 40 % of the measuring time saved with the same verdicts, and the same candidates pass beside the burning
process. A candidate whose verdict already differs between the two quiet measurements, before and after, says nothing
about the burning process; it is listed. One that passes one way and not the other is measured both ways four more
times, in turn, and the majority of each counts: near a limit, verdicts differ from one measurement to the next. Exit
code 0 if what is asked holds, 1 if not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import report
from bundles import IMAGES, Workshop
from replay import Twice, time_bundle_twice
from results import record

import search
from evaluators.jobs import MeasureJob, Protocol
from evaluators.outcome import Constraint, Evidence, LatencyEvidence, Outcome
from evaluators.verdicts import judge_all
from search import api
from search.result import TrialResult

SAVED = 0.4
BURN = "while True: pass"
AGAIN = 4
"""So many more times a candidate is measured both ways, in turn, where it passed once and once not."""


@dataclass(frozen=True)
class Row:
    """One candidate: measured as in a search without and with a burning process, and once for the fixed time."""

    label: str
    quiet: Outcome
    beside: Outcome
    twice: Twice
    again: tuple[tuple[Outcome, Outcome], ...] = ()

    @property
    def changed(self) -> bool:
        """Whether it passes under one condition only, by the majority where it was measured again."""
        quiet, beside = zip((self.quiet, self.beside), *self.again, strict=True)
        return _passes_mostly(quiet) != _passes_mostly(beside)


def _passes_mostly(outcomes: Sequence[Outcome]) -> bool:
    return sum(passes(outcome) == "pass" for outcome in outcomes) > len(outcomes) / 2


def verdict(latency: LatencyEvidence, constraint: Constraint) -> str:
    """Return the verdict on the latency."""
    return judge_all([constraint], Evidence(latency=latency))[0].status


def before(row: Row, constraint: Constraint) -> str:
    """Return the verdict on the latency in the quiet job."""
    latency = row.quiet.evidence.latency
    return row.quiet.kind if latency is None else verdict(latency, constraint)


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


def measure_twice(bundle: str, protocol: Protocol, budget_ms: float) -> Twice:
    """Time a bundle for the fixed time in a process of its own and judge its calls by both protocols."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(time_bundle_twice, bundle, IMAGES, protocol, budget_ms).result()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-budget-ms", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    given = parser.parse_args()
    facts = report.machine()
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(given.threads)))
    with tempfile.TemporaryDirectory(prefix="protocols-") as home:
        result = search.run(IMAGES, home=home, latency_budget_ms=given.latency_budget_ms, threads=given.threads,
                            trials=given.trials)  # fmt: skip
        trials = [trial for trial in api.trials(result.search, Path(home)) if trial.bundle and trial.latency_ms]
        workshop = Workshop(Path(home), given.threads)
        profile = workshop.profile()
        rows = []
        for trial in trials:
            job = MeasureJob(bundle=str(trial.bundle), profile=profile, home=home, constraints=result.constraints)
            row = Row(trial.label, measure(workshop, trial, job, beside=False),
                      measure(workshop, trial, job, beside=True),
                      measure_twice(str(trial.bundle), job.protocol, given.latency_budget_ms))  # fmt: skip
            if row.changed:
                pairs = [tuple(measure(workshop, trial, job, beside=burn) for burn in (False, True))
                         for _ in range(AGAIN)]  # fmt: skip
                row = replace(row, again=tuple(pairs))
            rows.append(row)
            print(f"{trial.label}: {passes(rows[-1].quiet)} {passes(rows[-1].beside)}", file=sys.stderr, flush=True)
        workshop.close()
    return conclude(rows, result.constraints[0], given, facts)


def conclude(rows: Sequence[Row], constraint: Constraint, given: argparse.Namespace, facts: dict[str, Any]) -> int:
    """Write the section and say whether what was asked holds."""
    spent, fixed = (sum(getattr(row.twice, name).seconds for row in rows) for name in ("sequential", "fixed"))
    saved = 1 - spent / fixed
    both = [tuple(verdict(latency, constraint) for latency in row.twice) for row in rows]
    other = [f"{row.label} ({fixed} → {early})" for row, (fixed, early) in zip(rows, both, strict=True)
             if early != fixed]  # fmt: skip
    settled = [row for row in rows if before(row, constraint) == verdict(row.twice.sequential, constraint)]
    unsettled = [row.label for row in rows if row not in settled]
    changed = [row.label for row in settled if row.changed]
    again = [f"{row.label} (quiet {', '.join(passes(one) for one, _ in row.again)}; beside "
             f"{', '.join(passes(other) for _, other in row.again)})" for row in rows if row.again]  # fmt: skip
    thrown, without = (sum(latency.polluted for row in rows if (latency := getattr(row, name).evidence.latency))
                       for name in ("beside", "quiet"))  # fmt: skip
    unclean = sum(not row.beside.evidence.latency.clean for row in rows if row.beside.evidence.latency)
    holds = saved >= SAVED and not other and not changed
    cells = [
        f"| {row.label} | {row.twice.fixed.value:.3f} | {verdicts[0]} | {row.twice.fixed.seconds:.2f} | "
        f"{row.twice.sequential.value:.3f} | {verdicts[1]} | {row.twice.sequential.seconds:.2f} | "
        f"{value(row.quiet):.3f} | {value(row.beside):.3f} | {passes(row.quiet)} → {passes(row.beside)} |"
        for row, verdicts in zip(rows, both, strict=True)
    ]
    text = "\n".join([
        f"## {facts['date']}: early verdicts, and another program on one core, {facts['processor']}", "",
        f"`python benchmarks/protocols.py {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        f"{constraint.metric} at most {given.latency_budget_ms:g}; {given.threads} thread(s).", "",
        "| candidate | fixed: ms | verdict | s | same calls, sequential: ms | verdict | s | in a job: ms "
        "| in a job beside a burning process: ms | all limits, quiet → beside |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |", *cells, "",
        f"- Measuring one candidate's latency in a job, loading the reference included: median "
        f"{statistics.median(seconds(row.quiet) for row in rows):.2f} s.",
        f"- From the same calls, warm-up and reference included: median "
        f"{statistics.median(row.twice.fixed.seconds for row in rows):.2f} s for the fixed protocol, "
        f"{statistics.median(row.twice.sequential.seconds for row in rows):.2f} s for the sequential one; {saved:.0%} "
        f"of all of it saved (asked: {SAVED:.0%}); other verdicts: {', '.join(other) or 'none'}; of these, pass "
        f"against fail: {sum({*pair} == {'pass', 'fail'} for pair in both)}.",
        f"- Beside a process that burns one core, {thrown} blocks were thrown away and timed again ({without} without "
        f"it), {unclean} candidates were never clean. Of {len(settled)} candidates with one verdict on latency in both "
        f"quiet measurements, those that no longer pass or pass only then: {', '.join(changed) or 'none'}. Not one "
        f"verdict even then: {', '.join(unsettled) or 'none'}. Passed one way and not the other, so measured both ways "
        f"{AGAIN} more times in turn, and the majority counts: {', '.join(again) or 'none'}.",
        f"- **{'Holds' if holds else 'Does not hold'}.**", "",
    ])  # fmt: skip
    record(text, keep=given.record)
    return 0 if holds else 1


def value(outcome: Outcome) -> float:
    """Return the constrained latency in ms."""
    return outcome.evidence.latency.value if outcome.evidence.latency else float("nan")


if __name__ == "__main__":
    sys.exit(main())
