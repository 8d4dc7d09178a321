"""Does a search for traffic find another model than a search for single calls, and does that serve more requests?

    python benchmarks/server_scenario.py

Two searches of the image example with the same budget at p99, the same space and the same number of trials: one for
throughput of calls one after the other, one with ``--scenario server``. Then the best of each is put under load by
``loadtest --find-rate`` with the same budget, in turn: the one of the server scenario with the window and instances
that it was found with, the other with these as well, and without a window in one instance and in as many; its best way
counts. Exit code 0 if the candidates differ and that of the server scenario serves a higher rate.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report
from bundles import IMAGES
from results import record

from evaluators.traffic.values import LoadTest, Serving

if TYPE_CHECKING:
    from search.load_testing import LoadTestReport
    from search.result import SearchResult, TrialResult

NOBODY = "none"


@dataclass(frozen=True)
class Served:
    """A best under load, served in one way."""

    scenario: str
    trial: TrialResult
    serving: Serving
    found: LoadTestReport

    @property
    def rate_per_s(self) -> float:
        """The highest rate that surely keeps the budget; 0 where none does."""
        return self.found.highest_rate_per_s or 0.0

    def row(self) -> str:
        """Write it as a row of the table."""
        test, serving = self.found.test, self.serving
        call = "" if test.call_ms is None else f"{test.call_ms.p50:.2f}"
        rate = f"{self.rate_per_s:,.0f}" if self.rate_per_s else NOBODY
        return (f"| {self.scenario} | {self.trial.label} | {serving.instances} | {serving.window_ms:g} | {call} | "
                f"{rate} | {test.value:.2f} | {test.mean_batch or 0:.1f} | {test.busy_share or 0:.0%} | "
                f"{'yes' if test.clean else 'no'} |")  # fmt: skip


def searched(scenario: str, home: Path, given: argparse.Namespace) -> SearchResult:
    """Run one of the searches."""
    from search import api

    settings: dict[str, Any] = {"scenario": "server"} if scenario == "server" else {}
    print(f"searching: {scenario}", file=sys.stderr)
    return api.run(
        given.workload, home=home, latency_budget_ms=given.budget_ms, percentile="p99", objective="throughput",
        backend=tuple(given.backend.split(",")), batch_size=tuple(map(int, given.batch_size.split(","))),
        threads=given.threads, trials=given.trials, seed=given.seed, name=f"{scenario}-{os.getpid()}", **settings,
    )  # fmt: skip


def ways_of(best: TrialResult, server: TrialResult) -> list[Serving]:
    """Return how a best is served: as it was found, or in several ways where its search knew nothing of serving."""
    found = server.server
    chosen = Serving(window_ms=(found and found.window_ms) or 0.0, instances=(found and found.instances) or 1)
    if best.number == server.number and best.server is not None:
        return [chosen]
    ways = [Serving(window_ms=0.0, instances=count) for count in sorted({1, chosen.instances})]
    return ways if chosen in ways else [*ways, chosen]


def under_load(
    scenario: str, best: TrialResult, ways: list[Serving], home: Path, given: argparse.Namespace
) -> list[Served]:
    """Look for the highest rate of a best, in each way of serving it."""
    from search import api

    rows = []
    for serving in ways:
        test = LoadTest(budget_ms=given.budget_ms, seconds=given.seconds)
        found = api.loadtest(str(best.bundle), home, test, find_rate=True, serving=serving)
        rows.append(Served(scenario, best, serving, found))
        print(rows[-1].row(), file=sys.stderr)
    return rows


def conclude(rows: list[Served], given: argparse.Namespace, seconds: dict[str, float]) -> int:
    """Write the section and say whether what was asked holds."""
    best = {
        name: max((row for row in rows if row.scenario == name), key=lambda row: row.rate_per_s) for name in seconds
    }
    single, server = best["single"], best["server"]
    differ = single.trial.candidate.hash != server.trial.candidate.hash
    holds = differ and server.rate_per_s > single.rate_per_s
    other = f"{server.rate_per_s / single.rate_per_s:.2f} times the other" if single.rate_per_s else "the other none"
    facts = report.machine()
    text = "\n".join([
        f"## {facts['date']}: the server scenario, {facts['processor']}", "",
        f"`python benchmarks/server_scenario.py {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        f"Budget {given.budget_ms:g} ms at p99, {given.trials} trials each of {given.backend} at batch sizes "
        f"{given.batch_size} with {given.threads} thread{'s' if given.threads > 1 else ''}.", "",
        "| search | best | instances | window, ms | call p50, ms | highest rate, /s | p99 there, ms "
        "| requests in a batch | at work | clean |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |", *(row.row() for row in rows), "",
        *(f"- The search for {name} took {took:.0f} s." for name, took in seconds.items()),
        f"- The candidates {'differ' if differ else 'are the same'}; that of the server scenario serves "
        f"{server.rate_per_s:,.0f} requests/s, {other}.",
        f"- **{'Holds' if holds else 'Does not hold'}.**", "",
    ])  # fmt: skip
    record(text, keep=given.record)
    return 0 if holds else 1


def main() -> int:
    """Run both searches, put their bests under load, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workload", default=IMAGES)
    parser.add_argument("--budget-ms", type=float, default=5.0)
    parser.add_argument("--backend", default="onnxruntime,openvino")
    parser.add_argument("--batch-size", default="1,2,4,8,16,32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long requests arrive in each test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--home", type=Path, help="keep the searches here; otherwise they are dropped")
    parser.add_argument("--record", action="store_true", help="append the report to RESULTS.md")
    given = parser.parse_args()
    with ExitStack() as stack:
        home = given.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="server-scenario-")))
        results, seconds = {}, {}
        for scenario in ("single", "server"):
            began = time.monotonic()
            results[scenario] = searched(scenario, home.resolve(), given)
            seconds[scenario] = time.monotonic() - began
        bests = {name: result.best for name, result in results.items()}
        for name, best in bests.items():
            if best is None:
                raise SystemExit(f"the search for {name} found nothing feasible")
        rows = []
        for name, best in bests.items():
            rows += under_load(name, best, ways_of(best, bests["server"]), home.resolve(), given)  # type: ignore[arg-type]
        return conclude(rows, given, seconds)


if __name__ == "__main__":
    sys.exit(main())
