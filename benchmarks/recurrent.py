"""How much faster does an LSTM get? A search of the motion example at batch 1 on one thread.

    python -m benchmarks.recurrent --record

Asked: the best feasible model at least 1.8 times faster than eager fp32, timed in turn with it, with a drop of accuracy
within 0.01, whichever technique it takes. About 8 minutes on 2 cores. Exit code 0 if so, 1 if not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import search
from benchmarks import report
from benchmarks.attempts import reference
from benchmarks.results import record
from search.result import SearchResult

ASKED, MOST_DROP = 1.8, 0.01


def holds(result: SearchResult) -> bool:
    """Whether the best is feasible, as fast as asked, and loses no more than asked."""
    best, speedup = result.best, result.speedup
    if best is None or speedup is None or best.accuracy_drop is None:
        return False
    return best.feasible and speedup >= ASKED and best.accuracy_drop <= MOST_DROP


def write(result: SearchResult, facts: dict[str, Any]) -> str:
    """Write the section."""
    best, speedup, interval = result.best, result.speedup, result.speedup_ci95
    said = "- No feasible model, or none that was compared with eager fp32."
    if best is not None and speedup is not None:
        shown = f"95 %: {interval[0]:.2f} to {interval[1]:.2f}; " if interval else "without an interval; "
        said = (
            f"- Best: {report.trial_line(best).strip('| ')}. **{speedup:.2f}× as fast** as eager fp32 ({shown}asked: "
            f"{ASKED:g}×) with a drop of {best.accuracy_drop:+.4f} (asked: at most {MOST_DROP:g})."
        )
        if result.speedup_over_float is not None:
            said += f" Over the fastest unmodified fp32 model of any backend: {result.speedup_over_float:.2f}×."
    counts = result.trials
    return "\n".join([
        f"## {facts['date']}: an LSTM at batch 1 on one thread, {facts['processor']}", "",
        f"`python -m benchmarks.recurrent {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        f"- The search: {counts.total} trials ({counts.measured} measured, {counts.rejected} rejected, {counts.failed} "
        f"failed) in {result.elapsed_s:.0f} s.",
        said, f"- **{'Holds' if holds(result) else 'Does not hold'}.**", "",
    ])  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--home", type=Path, help="home of the search, default a temporary one")
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    given = parser.parse_args()
    facts = report.machine()
    with tempfile.TemporaryDirectory(prefix="recurrent-") as scratch:
        result = search.run(
            reference("motion"), home=given.home or Path(scratch), objective="latency",
            batch_size=[1], threads=1, max_accuracy_drop=MOST_DROP, trials=given.trials,
        )  # fmt: skip
    record(write(result, facts), keep=given.record)
    return 0 if holds(result) else 1


if __name__ == "__main__":
    sys.exit(main())
