"""Does a measurement agree with itself, and does it find a slowdown of 5 %?

    python benchmarks/pairs.py --pairs 100

Each pair times one bundle against itself (A/A) and against itself with 5 % of every call's own time added by spinning
(A/B), all three in turn through the final comparison of a search: fresh processes for every round. The bundles are the
int8 and fp32 recipes of the image example on each runtime, in turn. Asked: |difference of p50| <= 2 % in at least 95 of
100, "different" said of at most 5 A/A pairs, and of at least 95 A/B pairs. Exit code 0 if so, 1 if not.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import report
from bundles import Built, Workshop
from results import record

from evaluators.jobs import Protocol
from evaluators.statistics import compare_rounds, different
from evaluators.timing.blocks import LocalCalls
from evaluators.timing.comparison import compare
from evaluators.timing.stand import Stand, StandRequest, load

WANTED = (
    ("openvino", "static_int8"), ("onnxruntime", "static_int8"), ("inductor", "fp32"), ("eager", "fp32"),
    ("onnxruntime", "fp32"),
)  # fmt: skip
WITHIN, ASKED = 0.02, 0.95
IMPORTED = ("evaluators.preload", "torch._inductor", "onnxruntime", "openvino")
"""Loaded before the processes of the rounds are forked, as a search's fork server loads what its jobs need."""


@dataclass(frozen=True)
class Result:
    """One comparison: how many times slower the second is than the first, its interval, and whether that is sure."""

    label: str
    ratio: float
    interval: tuple[float, float]
    p95_ratio: float
    polluted: int
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.ratio:.4f} ({self.interval[0]:.4f} to {self.interval[1]:.4f})"

    @property
    def different(self) -> bool:
        """Whether the two are said to be different."""
        return different(self.interval)


def slowed(request: StandRequest, slowdown: float) -> LocalCalls:
    """Load a bundle whose every call takes ``slowdown`` of its own time longer."""
    calls = load(request)
    run = calls.run

    def slow(batch: Any) -> Any:
        begun = time.perf_counter()
        answer = run(batch)
        end = begun + (time.perf_counter() - begun) * (1 + slowdown)
        while time.perf_counter() < end:
            pass
        return answer

    return LocalCalls(slow, calls.batches)


def compare_thrice(built: Built, protocol: Protocol, slowdown: float) -> tuple[Result, Result]:
    """Time A, A again and A slowed in turn; return A/A and A/B."""
    request, begun = StandRequest(workload=built.profile.reference, bundle=built.bundle), time.monotonic()

    def start(loader: Callable[[StandRequest], LocalCalls]) -> Callable[[], Stand]:
        return lambda: Stand(request, loader)

    found = compare([start(load), start(load), start(lambda asked: slowed(asked, slowdown))], protocol, 600.0)
    first = found.latencies[0]
    results = []
    for index in (1, 2):
        pairs = zip(found.log_medians[index], found.log_medians[0], strict=True)
        ratio, interval = compare_rounds([b - a for b, a in pairs if b is not None and a is not None])
        other = found.latencies[index]
        if first is None or other is None:
            raise SystemExit(f"{built.candidate.label()} could not be timed")
        seconds = time.monotonic() - begun
        label = built.candidate.label()
        results.append(Result(label, ratio, interval, other.value / first.value, other.polluted, seconds))
    return results[0], results[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--slowdown", type=float, default=0.05)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="keep every pair in this file, and go on after those it has")
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    given = parser.parse_args()
    facts = report.machine()
    found = read(given.keep)[: given.pairs]
    with tempfile.TemporaryDirectory(prefix="pairs-") as home:
        workshop = Workshop(Path(home), given.threads)
        bundles = workshop.build(WANTED, given.batch_size)
        workshop.close()
        for name in IMPORTED:
            importlib.import_module(name)
        for number, built in itertools.islice(enumerate(itertools.cycle(bundles)), len(found), given.pairs):
            a, b = compare_thrice(built, Protocol(), given.slowdown)
            found.append((a, b))
            if given.keep is not None:
                with given.keep.open("a") as kept:
                    kept.write(json.dumps([asdict(a), asdict(b)]) + "\n")
            print(f"{number + 1}: {a.label}: A/A {a}, A/B {b}", file=sys.stderr, flush=True)
    return conclude([a for a, _ in found], [b for _, b in found], given, facts)


def read(kept: Path | None) -> list[tuple[Result, Result]]:
    """Return the pairs that a file has."""
    if kept is None or not kept.exists():
        return []
    pairs = [json.loads(line) for line in kept.read_text().splitlines()]
    return [tuple(Result(**{**one, "interval": tuple(one["interval"])}) for one in pair) for pair in pairs]  # type: ignore[misc]


def conclude(same: list[Result], slower: list[Result], given: argparse.Namespace, facts: dict[str, Any]) -> int:
    """Write the section and say whether what was asked holds."""
    close = sum(abs(result.ratio - 1) <= WITHIN for result in same)
    false, found = sum(result.different for result in same), sum(result.different for result in slower)
    count = len(same)
    holds = close >= ASKED * count and false <= (1 - ASKED) * count and found >= ASKED * count
    labels = dict.fromkeys(result.label for result in same)
    rows = []
    for label in labels:
        mine = [result for result in same if result.label == label]
        theirs = [result for result in slower if result.label == label]
        rows.append(
            f"| {label} | {len(mine)} | {statistics.median(abs(r.ratio - 1) for r in mine):.2%} | "
            f"{max(abs(r.ratio - 1) for r in mine):.2%} | {sum(r.different for r in mine)} | "
            f"{statistics.median(r.ratio for r in theirs):.3f} | {sum(r.different for r in theirs)} |"
        )
    text = "\n".join([
        f"## {facts['date']}: A/A and an injected slowdown of {given.slowdown:.0%}, {facts['processor']}", "",
        f"`python benchmarks/pairs.py {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        "| bundle | pairs | A/A: median difference | largest | said to be different | A/B: median ratio | found |",
        "| --- | --- | --- | --- | --- | --- | --- |", *rows, "",
        f"- A/A: the p50 of {close} of {count} pairs differ by at most {WITHIN:.0%} (asked: {ASKED:.0%} of them); "
        f"{false} said to be different (asked: at most {1 - ASKED:.0%}).",
        f"- A/B: the slowdown was found in {found} of {count} (asked: at least {ASKED:.0%}).",
        f"- {statistics.mean(r.seconds for r in same):.1f} s for each three-way comparison of {Protocol().rounds} to "
        f"{Protocol().most_rounds} rounds.",
        f"- **{'Holds' if holds else 'Does not hold'}.**", "",
    ])  # fmt: skip
    record(text, keep=given.record)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
