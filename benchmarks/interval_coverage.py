"""Do nominal 95 % intervals of latency contain the truth in 93 to 97 of 100 traces?

    python benchmarks/interval_coverage.py --traces 1000 --seed 0

Synthetic traces with known quantiles go through ``block_interval`` and, with a second model 1.3 times as slow timed in
turn, through ``ratio_interval``. Exit code 0 if p50, p95 and the ratio are covered in 93 to 97 % of the traces in every
row but those of the hard cases, whose memory is long against the trace; 1 if not.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial

import numpy as np
from results import record
from traces import Process, autocorrelated, bimodal, drifting, spiky

from evaluators.statistics import block_interval, ratio_interval

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
JUDGED = ("p50", "p95", "ratio")
WITHIN = (0.93, 0.97)
RATIO = 1.3
SIZES = ((300, 10), (2_000, 20), (20_000, 40))
"""Calls and blocks of a trace."""


def _sine(times: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * times)


def _line(times: np.ndarray) -> np.ndarray:
    return 2 * times - 1


CASES: dict[str, Process] = {
    "stationary: independent calls": autocorrelated(0.0),
    "stationary: autocorrelation 0.5": autocorrelated(0.5),
    "drifting: sine of ±20 %": drifting(_sine, anywhere=True),
    "drifting: line of ±20 %": drifting(_line, anywhere=False),
    "bimodal: independent calls": bimodal(None),
    "spiky: independent calls": spiky(None),
}
HARD: dict[str, Process] = {
    "stationary: autocorrelation 0.9": autocorrelated(0.9),
    "bimodal: regimes of 2 blocks": bimodal(2),
    "bimodal: regimes of 5 blocks": bimodal(5),
    "spiky: bursts of 5 calls": spiky(5),
}


def covered(process: Process, calls: int, blocks: int, random: np.random.Generator) -> dict[str, bool]:
    """Say for one trace which intervals contain the truth."""
    trace = np.array_split(process.draw(random, calls, calls / blocks), blocks)
    answers = {}
    for name, quantile in QUANTILES.items():
        low, high = block_interval(trace, quantile)
        answers[name] = low <= process.truth(quantile) <= high
    both = np.array_split(process.draw(random, 2 * calls, calls / blocks), 2 * blocks)
    low, high = ratio_interval([(ours / RATIO, theirs) for ours, theirs in zip(both[::2], both[1::2], strict=True)])[1]
    return {**answers, "ratio": low <= RATIO <= high}


def coverage(row: tuple[str, int, int], traces: int, seed: int) -> dict[str, float]:
    """Return the share of traces in which each interval contains the truth."""
    name, calls, blocks = row
    random = np.random.default_rng([seed, zlib.crc32(name.encode()), calls])
    answers = [covered({**CASES, **HARD}[name], calls, blocks, random) for _ in range(traces)]
    return {what: sum(answer[what] for answer in answers) / traces for what in answers[0]}


def holds(row: dict[str, float]) -> bool:
    """Say whether what is judged is covered as often as it must be."""
    return all(WITHIN[0] <= row[what] <= WITHIN[1] for what in JUDGED)


def report(found: dict[tuple[str, int, int], dict[str, float]], arguments: argparse.Namespace, *, verdict: bool) -> str:
    """Return the Markdown section."""
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: coverage of intervals", "",
        f"`python benchmarks/interval_coverage.py --traces {arguments.traces} --seed {arguments.seed}`", "",
        f"Share of {arguments.traces} synthetic traces whose nominal 95 % interval contains the truth.", "",
        "| trace | calls | blocks | p50 | p90 | p95 | p99 | ratio | p50, p95, ratio within 93-97 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for (name, calls, blocks), row in found.items():
        shares = " | ".join(f"{share:.1%}" for share in row.values())
        answer = ("yes" if holds(row) else "no") + (", a hard case" if name in HARD else "")
        lines.append(f"| {name} | {calls:,} | {blocks} | {shares} | {answer} |")
    note = "Hard cases have a memory that is long against the trace; they are shown and not judged."
    return "\n".join([*lines, "", note, "**Holds.**" if verdict else "**Does not hold.**", "", ""])


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    return parser.parse_args(argv)


def main() -> int:
    arguments = parse_arguments()
    rows = [(name, *size) for name in (*CASES, *HARD) if arguments.only in name for size in SIZES]
    with ProcessPoolExecutor(arguments.processes) as pool:
        shares = pool.map(partial(coverage, traces=arguments.traces, seed=arguments.seed), rows)
        found = dict(zip(rows, shares, strict=True))
    verdict = all(holds(row) for (name, *_), row in found.items() if name in CASES)
    text = report(found, arguments, verdict=verdict)
    record(text, keep=arguments.record)
    return 0 if verdict else 1


if __name__ == "__main__":
    sys.exit(main())
