"""Do 500 trials of one search stay pleasant in MLflow, and what does logging a trial cost the search?

    python -m benchmarks.mlflow_500

Made up trials go through the real ledger, its outbox and the projection, as in a search: each is logged, the tags of
the front are moved, the curves of the parent run go on, and the picture of the front is drawn again when it is due.
Then MLflow's own server and Chromium open the pages: from the navigation until what was asked for is on the screen, the
first time of each page with a fresh browser profile (cold), then in the same browser (warm). Asked: a trial costs less
than 300 ms (p95), and the parent page and the table of trials are there within 2 s, warm. Exit code 0 if all of it
holds, 1 if not.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.results import record
from search import api
from tests.chromium import chromium, mlflow_ui, rows
from tests.search.showcase import Showcase, a_showcase

TRIAL_MS, PAGE_S = 300.0, 2.0
PAGES = ("search", "trials", "front", "compare", "picture")
JUDGED = ("search", "trials")
WAIT_MS = 60_000


def logged(home: Path, count: int, pause_s: float) -> tuple[Showcase, list[float], float]:
    """Make the search; return what each trial cost in ms, and the end of the search in seconds."""
    costs: dict[str, list[float]] = {"trial": [], "end": []}
    shown = a_showcase(home, count, lambda what, seconds: costs[what].append(seconds), pause_s)
    return shown, [1e3 * seconds for seconds in costs["trial"]], costs["end"][0]


def shown_after(page: Any, address: str, view: str, shown: Showcase) -> float:
    """Open an address and return the seconds until what the view is about is on the screen."""
    begun = time.perf_counter()
    page.goto(address)
    front = shown.result.front
    if view == "search":
        page.get_by_role("heading", name=shown.result.name).wait_for()
        page.get_by_text("Child runs").wait_for()
        page.get_by_role("button", name="Load more").wait_for()
    elif view in ("trials", "front"):
        rows(page).nth(min(len(front), 10) - 1).wait_for()
    elif view == "compare":
        page.get_by_text(f"Comparing {len(front)} Runs").wait_for()
        page.get_by_text(front[0].label, exact=True).first.wait_for()
    else:
        page.frame_locator("iframe").locator(".scatterlayer .point").first.wait_for()
    return time.perf_counter() - begun


def opened(shown: Showcase, repeats: int) -> dict[str, list[float]]:
    """Open every page, first with a fresh profile and then again; the server has answered before."""
    found: dict[str, list[float]] = {}
    with mlflow_ui(shown.home) as address:
        for view in PAGES:
            _, there = api.ui_command(shown.result.name, shown.home, 5000, "127.0.0.1", view)
            route = f"{address}#{there.partition('/#')[2]}"
            with chromium() as context:
                page = context.new_page()
                page.set_default_timeout(WAIT_MS)
                times = []
                for _ in range(1 + repeats):
                    page.goto("about:blank")
                    times.append(shown_after(page, route, view, shown))
            found[view] = times
    return found


def percentile(values: list[float], share: float) -> float:
    """Return the smallest value that at least this share of them do not exceed."""
    return sorted(values)[max(0, -(-len(values) * round(share * 100) // 100) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--pause", type=float, default=0.0, metavar="SECONDS", help="between trials")
    parser.add_argument("--repeats", type=int, default=5, help="of each page, after the first")
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    given = parser.parse_args()
    facts, begun = report.machine(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mlflow-500-") as scratch:
        shown, costs, end_s = logged(Path(scratch), given.trials, given.pause)
        pages = opened(shown, given.repeats)
    p95 = percentile(costs, 0.95)
    slow = [view for view in JUDGED if statistics.median(pages[view][1:]) > PAGE_S]
    cold = [view for view in JUDGED if pages[view][0] > PAGE_S]
    holds = p95 < TRIAL_MS and not slow
    text = "\n".join([
        f"## {facts['date']}: {given.trials} trials of one search in MLflow, {facts['processor']}", "",
        f"`python -m benchmarks.mlflow_500 {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        f"Logging a trial: p50 {statistics.median(costs):.0f} ms, p95 {p95:.0f} ms, at most {max(costs):.0f} ms "
        f"(asked: p95 under {TRIAL_MS:.0f} ms). The end of the search: {end_s:.1f} s.", "",
        "| page | cold | warm, median | warm, slowest | asked |", "| --- | --- | --- | --- | --- |",
        *(f"| {view} | {times[0]:.2f} s | {statistics.median(times[1:]):.2f} s | {max(times[1:]):.2f} s | "
          f"{f'{PAGE_S:.0f} s' if view in JUDGED else '–'} |" for view, times in pages.items()), "",
        f"- Cold, with a fresh browser profile, {', '.join(cold) or 'none'} took longer than {PAGE_S:.0f} s.",
        f"- {time.monotonic() - begun:.0f} s in all.",
        f"- **{'Holds' if holds else 'Does not hold'}.**", "",
    ])  # fmt: skip
    record(text, keep=given.record)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
