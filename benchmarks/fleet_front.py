"""Does a fleet find the front that one machine finds?

    python benchmarks/fleet_front.py

The same search of the image example twice: on this machine by itself, and on a fleet of real processes on it, as
``make fleet`` starts them: Redis, PostgreSQL, an MLflow server, a coordinator and two workers. The bundles of both
fronts are then timed in turn in fresh processes, so that the machine's drift between the searches is no difference.

Asked: each front covers the other within the intervals. A point is covered by one of the other front that is not
surely slower for each example (95 % interval of the ratio, from rounds that timed both) and whose accuracy drop is not
above the 95 % interval of the point's own. Exit code 0 if both fronts are covered, 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import report
from bundles import HERE, IMAGES, Workshop
from results import record

if TYPE_CHECKING:
    from evaluators.jobs import Comparison

WORKERS = 2
UP_SECONDS = 300.0
UP = "the fleet is up"
LEAVE_SECONDS = 120.0


@dataclass(frozen=True)
class Point:
    """A trial of one of the fronts, with its index among the bundles that are timed in turn."""

    front: str
    trial: Mapping[str, Any]
    index: int

    @property
    def label(self) -> str:
        """The candidate, in short."""
        return str(self.trial["label"])

    @property
    def batch_size(self) -> int:
        """How many examples a call has."""
        return int(self.trial["candidate"]["batch_size"])


@dataclass(frozen=True)
class Cover:
    """The point of the other front that comes nearest to a point: time of it over that of the point, and interval."""

    by: Point
    ratio: float
    interval: tuple[float, float]
    holds: bool


def paretune(*arguments: str, allowed: Sequence[int] = (0,)) -> dict[str, Any]:
    """Run a command of paretune and return its JSON."""
    command = [str(Path(sys.executable).with_name("paretune")), *arguments, "--json"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode not in allowed:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}")
    return dict(json.loads(ended.stdout))


@contextmanager
def fleet(home: Path, log: Path) -> Iterator[None]:
    """Run the fleet of ``make fleet`` for the block, its workers present; what its parts say goes to ``log``."""
    command = [sys.executable, "-m", "scripts.fleet", "--home", str(home), "--workers", str(WORKERS)]
    with log.open("w", encoding="utf-8") as words:
        process = subprocess.Popen(command, cwd=HERE.parent, stdout=words, stderr=words, start_new_session=True)
    try:
        until = time.monotonic() + UP_SECONDS
        while not (UP in log.read_text(encoding="utf-8") and _present(home) == WORKERS):
            if time.monotonic() > until or process.poll() is not None:
                raise SystemExit(f"the fleet did not come up: {log.read_text(encoding='utf-8')[-2000:]}")
            time.sleep(1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(LEAVE_SECONDS)


def _present(home: Path) -> int:
    return sum(bool(worker["present"]) for worker in paretune("fleet", "--home", str(home)).get("workers", ()))


def searched(home: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Search in ``home``: by its fleet where it has joined one, else by itself."""
    return paretune(
        "search", IMAGES, "--home", str(home), "--latency-budget", given.latency_budget,
        "--max-accuracy-drop", str(given.max_accuracy_drop), "--trials", str(given.trials), "--timeout", given.timeout,
        "--seed", str(given.seed), *(("--backend", given.backend) if given.backend else ()),
        *(("--batch-size", given.batch_size) if given.batch_size else ()), "--threads", str(given.threads),
        allowed=(0, 4),
    )  # fmt: skip


def timed_in_turn(points: Sequence[Point], home: Path, given: argparse.Namespace) -> Comparison:
    """Time the bundles of all points in turn."""
    from evaluators.jobs import CompareJob

    shop = Workshop(home, given.threads)
    try:
        job = CompareJob(bundles=tuple(str(point.trial["bundle"]) for point in points), profile=shop.profile(),
                         home=str(home), seconds=given.compare_seconds)  # fmt: skip
        found = shop.run(job, "compare").comparison
    finally:
        shop.close()
    if found is None:
        raise SystemExit("the bundles could not be timed in turn")
    return found


def covered(point: Point, others: Sequence[Point], found: Comparison) -> Cover:
    """Return the point of the other front that covers ``point`` best: one that holds, the fastest of these."""
    from evaluators.statistics import compare_rounds

    covers = []
    for other in others:
        pairs = zip(found.log_medians[other.index], found.log_medians[point.index], strict=True)
        ratio, interval = compare_rounds([a - b for a, b in pairs if a is not None and b is not None])
        scale = point.batch_size / other.batch_size
        low, high = interval[0] * scale, interval[1] * scale
        most = (point.trial["accuracy_drop_ci95"] or (0, point.trial["accuracy_drop"]))[1]
        holds = low <= 1 and other.trial["accuracy_drop"] <= max(most, point.trial["accuracy_drop"])
        covers.append(Cover(other, ratio * scale, (low, high), holds))
    return min(covers, key=lambda cover: (not cover.holds, cover.ratio))


def conclude(
    results: Mapping[str, dict[str, Any]], covers: Sequence[tuple[Point, Cover]], rounds: int, given: argparse.Namespace
) -> int:
    """Write the section and say whether what was asked holds."""
    facts = report.machine()
    holds = all(cover.holds for _, cover in covers)
    rows = [
        f"| {point.front} | {point.trial['number']} {point.label} | {point.trial['accuracy_drop']:+.4f} | "
        f"{cover.by.trial['number']} {cover.by.label} | {cover.by.trial['accuracy_drop']:+.4f} | {cover.ratio:.3f} "
        f"({cover.interval[0]:.3f} to {cover.interval[1]:.3f}) | {'yes' if cover.holds else '**no**'} |"
        for point, cover in covers
    ]  # fmt: skip
    spent = [
        f"- {name}: {result['status']}, {result['trials']['total']} trials ({result['trials']['measured']} measured, "
        f"{result['trials']['rejected']} rejected, {result['trials']['failed']} failed) in "
        f"{result['elapsed_s']:.0f} s; best {result['best']['label'] if result['best'] else 'none'}."
        for name, result in results.items()
    ]  # fmt: skip
    text = "\n".join([
        f"## {facts['date']}: the front of a fleet and of one machine, {facts['processor']}", "",
        f"`python benchmarks/fleet_front.py {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        f"Latency budget {given.latency_budget}, accuracy drop within {given.max_accuracy_drop:g}, {given.trials} "
        f"trials or {given.timeout}. Fleet: Redis, PostgreSQL, MLflow server, coordinator, {WORKERS} worker processes.",
        "", "| front | trial | drop | covered by | its drop | its time for an example over the trial's | covered |",
        "| --- | --- | --- | --- | --- | --- | --- |", *rows, "", *spent,
        f"- All bundles of both fronts timed in turn over {rounds} rounds of fresh processes.",
        f"- **{'Holds' if holds else 'Does not hold'}.**", "",
    ])  # fmt: skip
    record(text, keep=given.record)
    return 0 if holds else 1


def main() -> int:
    """Search both ways, time both fronts in turn, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency-budget", default="5ms")
    parser.add_argument("--max-accuracy-drop", type=float, default=0.01)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--timeout", default="4m")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="")
    parser.add_argument("--batch-size", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare-seconds", type=float, default=240.0)
    parser.add_argument("--record", action="store_true", help="append the report to RESULTS.md")
    given = parser.parse_args()
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(given.threads)))
    with tempfile.TemporaryDirectory(prefix="fleet-front-") as scratch:
        alone, joined = Path(scratch, "alone"), Path(scratch, "fleet")
        results = {"one machine": searched(alone, given)}
        with fleet(joined, Path(scratch, "fleet.log")):
            results["fleet"] = searched(joined, given)
        told = [(name, trial) for name, result in results.items() for trial in result["front"]]
        points = [Point(name, trial, index) for index, (name, trial) in enumerate(told)]
        found = timed_in_turn(points, alone, given)
        rivals = {name: [point for point in points if point.front != name] for name in results}
        if not all(rivals.values()):
            raise SystemExit("one of the searches found no feasible model, so there is nothing to compare")
        covers = [(point, covered(point, rivals[point.front], found)) for point in points]
        return conclude(results, covers, max((len(one) for one in found.log_medians), default=0), given)


if __name__ == "__main__":
    sys.exit(main())
