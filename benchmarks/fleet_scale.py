"""What does coordinating a fleet cost, and does a large search hold up a small one?

    python -m benchmarks.fleet_scale --record

Devices are simulated: one process claims and finishes trials through the ledger, as workers do, on a clock of its own
that stands still while anything is left to do. So the coordinator's time is what coordinating takes, and nothing else:
a trial of 30 s costs the simulation nothing. All else is the product's own: coordinators, sampler, ledger, turns;
MLflow is left out.

1. steps: what asking for a trial and telling its outcome takes in a search that has 100, 1,000 and 10,000 trials.
2. fleet: many searches on many devices, how much of a processor each trial takes, and how many statements.
3. processes: real worker processes whose trials sleep, 1 against 4.

Exit code 0: orchestration within 2 % of the device time of 30-second trials, ask and tell within 100 ms of processor
time at the 95th percentile at 1,000 trials, and 4 workers at least 3.6 times as fast as one; 1: not. Wall times stand
beside it: they are what else ran on the machine, too, and its load is in the report.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.results import record
from benchmarks.simulated_fleet import Cost, Scaling, Steps, processes_scale, run_fleet, run_steps
from scripts.servers import PostgreSql

TRIAL_SECONDS = 30.0
MOST_SHARE = 0.02
MOST_STEP_MS = 100.0
JUDGED_AT = 1000
LEAST_SCALING = 3.6


@contextmanager
def databases(names: Sequence[str], folder: Path) -> Iterator[dict[str, str]]:
    """Yield the URL of an empty ledger on each kind of database; PostgreSQL with its usual care for the disk."""
    with ExitStack() as stack:
        urls = {}
        if "postgresql" in names:
            urls["postgresql"] = stack.enter_context(PostgreSql()).new_ledger()
        if "sqlite" in names:
            urls["sqlite"] = f"sqlite:///{folder / 'ledger.db'}"
        yield {name: urls[name] for name in names}


def report(
    steps: Sequence[Steps], costs: Sequence[Cost], scaling: Scaling | None, arguments: argparse.Namespace
) -> tuple[str, bool]:
    """Return the Markdown section, and whether everything that is asked for holds."""
    lines = [f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: coordinating a fleet, {os.cpu_count()} cores, load "
             f"{os.getloadavg()[1]:.1f}", "",
             f"`python -m benchmarks.fleet_scale {arguments.command}`", ""]  # fmt: skip
    holds = True
    if steps:
        lines += ["Asking for a trial and telling its outcome, one search, 8 of its trials running, in ms:", "",
                  "| database | trials | ask p50 | ask p95 | tell p50 | tell p95 | ask + tell p50 | ask + tell p95 |"
                  " of it processor p50 | processor p95 | taking the search up, s |",
                  "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        for step in steps:
            lines.append(step.row())
            holds &= step.trials != JUDGED_AT or step.both_cpu.p95 <= MOST_STEP_MS
    for cost in costs:
        share = cost.coordinator_cpu_s / cost.trials / TRIAL_SECONDS
        holds &= share <= MOST_SHARE
        lines += ["", f"**{cost.searches} searches, {cost.trials:,} trials, {cost.devices:,} devices, "
                  f"{cost.database}** ({cost.wall_s:.0f} s of wall time)", "",
                  "| | |", "| --- | --- |",
                  f"| coordinator, CPU per trial | {cost.coordinator_cpu_s / cost.trials * 1e3:.1f} ms |",
                  f"| of the device time of a {TRIAL_SECONDS:.0f}-second trial | {share:.2%} |",
                  f"| devices that one coordinator keeps busy with such trials "
                  f"| {TRIAL_SECONDS * cost.trials / cost.coordinator_cpu_s:,.0f} |",
                  f"| statements per trial, coordinator | {cost.coordinator_statements / cost.trials:.1f} |",
                  f"| statements per trial, worker (claim and outcome) | {cost.worker_statements / cost.trials:.1f} |",
                  f"| most trials unfinished at once | {cost.most_unfinished:,} |"]  # fmt: skip
    if scaling is not None:
        holds &= scaling.times >= LEAST_SCALING
        lines += ["", f"1 → 4 worker processes (Redis, PostgreSQL, {scaling.trials} trials of "
                  f"{scaling.trial_s:g} s): {scaling.one_s:.1f} s → {scaling.four_s:.1f} s, "
                  f"{scaling.times:.2f} times as fast."]  # fmt: skip
    return "\n".join([*lines, "", "**Holds.**" if holds else "**Does not hold.**", "", ""]), holds


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="steps,fleet,processes", help="which of the three, with commas")
    parser.add_argument("--databases", default="postgresql,sqlite")
    parser.add_argument("--sizes", default="100,1000,10000", help="trials of the search whose steps are timed")
    parser.add_argument("--steps", type=int, default=120, help="how many asks and tells are timed")
    parser.add_argument("--searches", type=int, default=20)
    parser.add_argument("--trials", type=int, default=20_000, help="of all searches together")
    parser.add_argument("--sqlite-trials", type=int, default=2_000, help="the same on SQLite, for comparison")
    parser.add_argument("--devices", type=int, default=1_000)
    parser.add_argument("--most-minutes", type=float, default=60.0, help="of a fleet: it is stopped then, and counted")
    parser.add_argument("--small", action="store_true", help="a quick look: 4 searches, 200 trials, 20 devices")
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    found = parser.parse_args(argv)
    found.command = " ".join(argv)
    if found.small:
        found.sizes, found.steps = "100,1000", 30
        found.searches, found.trials, found.sqlite_trials, found.devices = 4, 200, 200, 20
    return found


def main(argv: Sequence[str]) -> int:
    arguments = parse_arguments(argv)
    parts, names = arguments.parts.split(","), arguments.databases.split(",")
    steps, costs, scaling = list[Steps](), list[Cost](), None
    sizes = [int(size) for size in arguments.sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="paretune-scale-") as folder:
        if "steps" in parts:
            for name in names:
                for size in sizes:
                    with databases([name], Path(folder)) as urls:
                        steps.append(run_steps(name, urls[name], size, arguments.steps))
                    print(steps[-1].row(), file=sys.stderr)
                    (Path(folder) / "ledger.db").unlink(missing_ok=True)
        if "fleet" in parts:
            for name in names:
                trials = arguments.trials if name == "postgresql" else arguments.sqlite_trials
                with databases([name], Path(folder)) as urls:
                    costs.append(run_fleet(name, urls[name], Path(folder), arguments.searches, trials,
                                           arguments.devices, 60 * arguments.most_minutes))  # fmt: skip
                print(costs[-1], file=sys.stderr)
        if "processes" in parts:
            scaling = processes_scale(Path(folder))
            print(scaling, file=sys.stderr)
    text, holds = report(steps, costs, scaling, arguments)
    record(text, keep=arguments.record)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
