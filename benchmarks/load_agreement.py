"""Does a load test see the calls that a trial measured? The runtime's own calls under little traffic, and a trial's.

    python benchmarks/load_agreement.py

Builds bundles of the image example as a trial builds them. Each is measured as a trial measures it, in a process of its
own, and served by one instance without a window at a rate that keeps it busy for a tenth of the time: most requests
are alone then, and their latency is that of a call and of copying in and out. Both in turn, ``--rounds`` times. It
holds where the median ratios of p50 and of p95 of calls are within ``--within`` of 1 for every bundle.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import report
from bundles import IMAGES, Built, Workshop
from results import record

WANTED = (("onnxruntime", "fp32"), ("onnxruntime", "static_int8"), ("openvino", "fp32"), ("openvino", "static_int8"))
BUSY = 0.1


@dataclass(frozen=True)
class Pair:
    """One round, in milliseconds: p50 and p95 of a trial and of calls under load, and of requests there."""

    trial: tuple[float, float]
    interval: tuple[float, float]
    load: tuple[float, float]
    load_interval: tuple[float, float]
    request_p50: float
    clean: bool

    @property
    def overlap(self) -> bool:
        """Whether the 95 % intervals of both p95s have something in common."""
        return self.load_interval[0] <= self.interval[1] and self.interval[0] <= self.load_interval[1]


def measure(shop: Workshop, built: Built, seconds: float) -> Pair:
    """Measure a bundle as a trial does, and then its calls under load."""
    from evaluators.jobs import LoadJob, MeasureJob
    from evaluators.traffic.values import Examples, LoadTest, ServedBundle, Serving

    job = MeasureJob(bundle=built.bundle, profile=built.profile, home=str(built.home), constraints=(), gates=False)
    outcome = shop.run(job, "measure").outcome
    latency = outcome.evidence.latency if outcome else None
    if latency is None:
        raise SystemExit(f"{built.candidate.label()} was not measured: {outcome and outcome.reason}")
    answer = shop.run(
        LoadJob(
            subject=ServedBundle(bundle=built.bundle, trusted=True), examples=Examples(workload=IMAGES),
            test=LoadTest(budget_ms=100.0, percentile="p95", seconds=seconds), serving=Serving(window_ms=0),
            rate_per_s=BUSY / (latency.p50 / 1e3),
        ),
        "load",
    )  # fmt: skip
    if answer.load is None or answer.load.test.call_ms is None:
        raise SystemExit(f"{built.candidate.label()} could not be put under load: {answer.outcome}")
    test, calls = answer.load.test, answer.load.test.call_ms
    under_load = (calls.p50, calls.p95 or calls.ci95[1])
    clean = latency.clean and test.clean
    return Pair((latency.p50, latency.value), latency.ci95, under_load, calls.ci95, test.p50, clean)


def conclude(found: dict[str, list[Pair]], given: argparse.Namespace) -> int:
    """Write the section and say whether what was asked holds."""
    facts, rows, ratios = report.machine(), [], []
    for label, pairs in found.items():
        good = [pair for pair in pairs if pair.clean] or pairs
        medians = [statistics.median(pair.load[0] / pair.trial[0] for pair in good),
                   statistics.median(pair.load[1] / pair.trial[1] for pair in good)]  # fmt: skip
        ratios += medians
        rows.append(
            f"| {label} | {statistics.median(p.trial[0] for p in good):.3f} | "
            f"{statistics.median(p.load[0] for p in good):.3f} | {medians[0]:.3f} | "
            f"{statistics.median(p.trial[1] for p in good):.3f} | {statistics.median(p.load[1] for p in good):.3f} | "
            f"{medians[1]:.3f} | {sum(p.overlap for p in good)} of {len(good)} | "
            f"{statistics.median(p.request_p50 for p in good):.3f} | {sum(p.clean for p in pairs)} of {len(pairs)} |"
        )
    holds = all(abs(ratio - 1) <= given.within for ratio in ratios)
    text = "\n".join([
        f"## {facts['date']}: calls under little traffic and calls of a trial, {facts['processor']}", "",
        f"`python benchmarks/load_agreement.py {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        f"Milliseconds; medians of {given.rounds} rounds, undisturbed ones where there are any. Requests at random, "
        f"one instance, no window, at work {BUSY:.0%} of the time.", "",
        "| bundle | p50 trial | p50 load | ratio | p95 trial | p95 load | ratio | intervals of p95 meet "
        "| p50 of a request | undisturbed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |", *rows, "",
        f"- Asked: every ratio within {given.within:.0%} of 1. **{'Holds' if holds else 'Does not hold'}.**", "",
    ])  # fmt: skip
    record(text, keep=given.record)
    return 0 if holds else 1


def main() -> int:
    """Build, measure in turn, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="how long requests arrive in each round")
    parser.add_argument("--within", type=float, default=0.1)
    parser.add_argument("--home", type=Path, help="keep bundles here; otherwise they are dropped")
    parser.add_argument("--record", action="store_true", help="append the report to RESULTS.md")
    given = parser.parse_args()
    with ExitStack() as stack:
        home = given.home or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="load-agreement-")))
        home.mkdir(parents=True, exist_ok=True)
        shop = Workshop(home, 1)
        stack.callback(shop.close)
        found: dict[str, list[Pair]] = {}
        bundles = shop.build(WANTED, given.batch_size)
        for _ in range(given.rounds):
            for built in bundles:
                found.setdefault(built.candidate.label(), []).append(measure(shop, built, given.seconds))
                print(f"{built.candidate.label()}: {found[built.candidate.label()][-1]}", file=sys.stderr)
        return conclude(found, given)


if __name__ == "__main__":
    sys.exit(main())
