"""How often is a system exactly at its limit said to keep it, and how soon are systems off their limit decided?

    python benchmarks/verdict_errors.py --simulations 5000 --seed 0

Simulated systems are judged as a trial is, by ``decide`` at 99 % confidence at each of five looks, until a verdict.
Exit code 0 if at most 1 % of the systems exactly at their limit are said to keep it, in every row; 1 if not.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import numpy as np
from results import record
from traces import Process, autocorrelated

from evaluators.jobs import Protocol
from evaluators.statistics import decide, least_calls
from evaluators.timing.sequence import margin_at

CONFIDENCE = 0.99
PROTOCOL = Protocol()
LOOKS = tuple(seconds / PROTOCOL.looks[-1] for seconds in PROTOCOL.looks)
BLOCKS = 48
MOST_CALLS = {0.99: 12_000, 0.95: 4_800, 0.9: 2_400}
"""Calls at the last look, per percentile."""
SYSTEMS: dict[str, Process] = {
    "independent calls": autocorrelated(0.0),
    "autocorrelation 0.5": autocorrelated(0.5),
    "autocorrelation 0.9": autocorrelated(0.9),
}
OFFSETS = (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2)


class Row(NamedTuple):
    """A system and how far its percentile is off the limit, as a share of it."""

    system: str
    quantile: float
    offset: float


class Answer(NamedTuple):
    """Shares of the simulations, and the median of calls that a decision took."""

    passed: float
    failed: float
    plain_passed: float
    median_calls: float


def simulate(row: Row, simulations: int, seed: int) -> Answer:
    """Judge so many systems; ``plain_passed`` is what the same rule says uncorrected, as if each look were the only."""
    process, most = SYSTEMS[row.system], MOST_CALLS[row.quantile]
    random = np.random.default_rng([seed, zlib.crc32(repr(row).encode())])
    limit = process.truth(row.quantile) / (1 + row.offset)
    needed = np.array([least_calls(over, row.quantile, CONFIDENCE) for over in range(int(most * (1 - row.quantile)))])
    verdicts: Counter[str] = Counter()
    plain, spent = 0, []
    for _ in range(simulations):
        trace = np.array_split(process.draw(random, most, most / BLOCKS), BLOCKS)
        over = np.cumsum([np.count_nonzero(block > limit) for block in trace])
        verdict, calls, certain = "undecided", most, False
        for look in LOOKS:
            blocks = round(look * BLOCKS)
            seen = over[blocks - 1]
            certain = certain or (seen < len(needed) and needed[seen] <= blocks * most // BLOCKS)
            if verdict == "undecided":
                margin = margin_at(PROTOCOL, look * PROTOCOL.looks[-1])
                verdict = decide(trace[:blocks], limit, row.quantile, CONFIDENCE, len(LOOKS), margin)
                calls = blocks * most // BLOCKS
        verdicts[verdict] += 1
        plain += certain
        spent += [calls] if verdict != "undecided" else []
    median = float(np.median(spent)) if spent else float("nan")
    return Answer(verdicts["pass"] / simulations, verdicts["fail"] / simulations, plain / simulations, median)


def report(found: dict[Row, Answer], arguments: argparse.Namespace, *, verdict: bool) -> str:
    """Return the Markdown section: errors at the limit first, then power off it."""
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: wrong verdicts", "",
        f"`python benchmarks/verdict_errors.py --simulations {arguments.simulations} --power {arguments.power} "
        f"--seed {arguments.seed}`", "",
        f"Exactly at the limit, {arguments.simulations:,} systems a row, {CONFIDENCE:.0%} confidence over "
        f"{len(LOOKS)} looks together; *uncorrected* is the rule of LoadGen at each look.", "",
        "| system | percentile | calls at the looks | wrong pass | wrong fail | wrong pass, uncorrected |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row, answer in found.items():
        if row.offset == 0:
            looks = ", ".join(f"{round(look * MOST_CALLS[row.quantile]):,}" for look in LOOKS)
            shares = " | ".join(f"{share:.2%}" for share in (answer.passed, answer.failed, answer.plain_passed))
            lines.append(f"| {row.system} | {row.quantile:.0%} | {looks} | {shares} |")
    lines += [
        "", f"Off the limit, {arguments.power:,} systems a row; the standard deviation of log-latency is 0.1.", "",
        "| system | percentile | off the limit by | pass | fail | undecided | median calls of a verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for row, answer in found.items():
        if row.offset:
            shares = " | ".join(
                f"{share:.1%}" for share in (answer.passed, answer.failed, 1 - answer.passed - answer.failed)
            )
            lines.append(
                f"| {row.system} | {row.quantile:.0%} | {row.offset:+.0%} | {shares} | {answer.median_calls:,.0f} |"
            )
    return "\n".join([*lines, "", "**Holds.**" if verdict else "**Does not hold.**", "", ""])


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=5000, help="systems a row, exactly at the limit")
    parser.add_argument("--power", type=int, default=500, help="systems a row, off the limit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    return parser.parse_args(argv)


def main() -> int:
    arguments = parse_arguments()
    at_limit = [Row(system, quantile, 0.0) for system in SYSTEMS for quantile in MOST_CALLS]
    off_limit = [Row(system, quantile, offset) for system in SYSTEMS for quantile in MOST_CALLS for offset in OFFSETS]
    with ProcessPoolExecutor(arguments.processes) as pool:
        errors = pool.map(partial(simulate, simulations=arguments.simulations, seed=arguments.seed), at_limit)
        power = pool.map(partial(simulate, simulations=arguments.power, seed=arguments.seed), off_limit)
        found = dict(zip([*at_limit, *off_limit], [*errors, *power], strict=True))
    verdict = all(answer.passed <= 1 - CONFIDENCE for row, answer in found.items() if row.offset == 0)
    text = report(found, arguments, verdict=verdict)
    record(text, keep=arguments.record)
    return 0 if verdict else 1


if __name__ == "__main__":
    sys.exit(main())
