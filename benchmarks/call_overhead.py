"""Does paretune add cost to a call? Each backend on each example against the same runtime called by hand.

    python benchmarks/call_overhead.py --rounds 12

The fp32 bundle of each backend is built, compared with the original model, and timed block by block in turn with the
same files called by hand with the same settings (``called_by_hand.py``), each in fresh processes for every round.
Asked: p50 within 3 % of that by hand, at batch 1 and 32. Exit code 0 if every comparison holds, 1 if not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import report
from bundles import HERE, Built, Workshop
from called_by_hand import BY_HAND
from results import record

from evaluators.batching import as_arrays, example_batches
from evaluators.bundle import open_bundle
from evaluators.cache import StageCache
from evaluators.jobs import Protocol
from evaluators.libraries import first_line
from evaluators.registry import backends
from evaluators.stages.reference import reference_outputs
from evaluators.statistics import compare_rounds
from evaluators.testing.computing import sqnr_db
from evaluators.testing.processes import run_elsewhere
from evaluators.timing.blocks import LocalCalls
from evaluators.timing.comparison import LEAST_ROUNDS, compare
from evaluators.timing.stand import LATENCY_BATCHES, Stand, StandRequest, real_batches
from evaluators.workload import load_workload

EXAMPLES = ("images", "text", "motion")
ASKED = 1.03
COMPARE_SECONDS = 900.0
PARITY_BATCHES = 2


def by_hand(request: StandRequest) -> LocalCalls:
    """Load the files of a bundle by hand, with the batches that the bundle itself is timed on."""
    folder = Path(str(request.bundle))
    manifest = open_bundle(folder, trusted=True)
    batches = [
        as_arrays(batch)
        for batch in real_batches(load_workload(request.workload), manifest.candidate.batch_size, LATENCY_BATCHES)
    ]
    run, inputs = BY_HAND[manifest.candidate.backend](folder, manifest, batches)
    return LocalCalls(run, inputs)


def parity_db(built: Built) -> float:
    """Return how close the bundle is to the original model on a few real batches, run in a fresh process."""
    size, workload = built.candidate.batch_size, load_workload(built.profile.reference)
    wanted = reference_outputs(workload, built.profile, size, StageCache(built.home / "cache" / "stages"))
    batches = islice(example_batches(workload.validation(), workload.collate, size), PARITY_BATCHES)
    arrays = [as_arrays(inputs) for inputs, _, _ in batches]
    found = run_elsewhere(Path(built.bundle), arrays, built.home / "elsewhere" / Path(built.bundle).name)
    mine = [array for outputs in found for array in outputs]
    return sqnr_db(mine, [array for outputs in wanted[: len(arrays)] for array in outputs])


def overhead(built: Built, protocol: Protocol) -> dict[str, Any]:
    """Time the bundle and the same files by hand, in turn."""
    request = StandRequest(workload=built.profile.reference, bundle=built.bundle)
    found = compare([lambda: Stand(request), lambda: Stand(request, by_hand)], protocol, COMPARE_SECONDS)
    ours, theirs = found.latencies
    if ours is None or theirs is None:
        return {"error": f"{'paretune' if ours is None else 'by hand'}: could not be timed"}
    pairs = [(a, b) for a, b in zip(*found.log_medians, strict=True) if a is not None and b is not None]
    if len(pairs) < LEAST_ROUNDS:
        return {"error": f"other programs used the processor in all but {len(pairs)} of {protocol.rounds} rounds"}
    ratio, interval = compare_rounds([a - b for a, b in pairs])
    return {"ours_ms": ours.p50, "by_hand_ms": theirs.p50, "ratio": ratio, "interval": interval}


def rows_of(example: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every backend on one example; what cannot be measured is a row with its reason."""
    reference = f"{HERE.parent / 'examples' / example / 'workload.py'}:workload"
    rows, protocol = [], Protocol(rounds=given.rounds, max_foreign_load=given.max_foreign_load)
    with tempfile.TemporaryDirectory(prefix="call-overhead-") as scratch:
        workshop = Workshop(Path(scratch), given.threads)
        try:
            for backend in sorted(backends()):
                if given.only and backend not in given.only.split(","):
                    continue
                for size in given.batch_sizes:
                    row: dict[str, Any] = {"example": example, "backend": backend, "batch": size}
                    rows.append(row)
                    try:
                        row |= measured(workshop, reference, backend, size, protocol)
                    except (Exception, SystemExit) as error:  # a row of its own, and the others go on
                        row["error"] = first_line(error)
                    print(row, file=sys.stderr, flush=True)
        finally:
            workshop.close()
    return rows


def measured(workshop: Workshop, reference: str, backend: str, size: int, protocol: Protocol) -> dict[str, Any]:
    """Build, compare and time one backend at one batch size."""
    if backend not in BY_HAND:
        return {"error": "called_by_hand.py has no call by hand for it"}
    built = workshop.build([(backend, "fp32")], size, reference)
    if not built:
        return {"error": "it cannot be used here"}
    return {"parity_db": parity_db(built[0]), **overhead(built[0], protocol)}


def line(row: dict[str, Any]) -> str:
    """Write a row of the table."""
    start = f"| {row['example']} | {row['backend']} | {row['batch']} "
    if "error" in row:
        return f"{start}| – | – | – | – | {row['error'].replace('|', '/')} |"
    low, high = row["interval"]
    return (
        f"{start}| {row['parity_db']:.0f} dB | {row['ours_ms']:.4f} | {row['by_hand_ms']:.4f} | "
        f"{row['ratio']:.3f} ({low:.3f} to {high:.3f}) | {verdict(row)} |"
    )


def verdict(row: dict[str, Any]) -> str:
    """Say whether what was asked holds; an interval that reaches below the limit decides nothing."""
    if row["ratio"] <= ASKED:
        return "yes"
    return "undecided" if row["interval"][0] <= ASKED else "**no**"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12, help="fresh processes of each")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--example", choices=EXAMPLES, action="append", help="only this one; may be repeated")
    parser.add_argument("--only", default="", metavar="BACKENDS", help="only these, with commas between")
    parser.add_argument(
        "--max-foreign-load", type=float, default=0.05, help="of other programs, beside a block that counts"
    )
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    given = parser.parse_args()
    facts, begun = report.machine(), time.monotonic()
    rows = [row for example in given.example or EXAMPLES for row in rows_of(example, given)]
    timed = [row for row in rows if "ratio" in row]
    close = sum(row["ratio"] <= ASKED for row in timed)
    holds = bool(timed) and close == len(timed)
    text = "\n".join([
        f"## {facts['date']}: the cost that paretune adds to a call, {facts['processor']}", "",
        f"`python benchmarks/call_overhead.py {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        "| example | backend | batch | parity | p50 ms | by hand, p50 ms | ratio (95 %) | within 3 % |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |", *map(line, rows), "",
        f"- {close} of {len(timed)} comparisons are at most {ASKED - 1:.0%} slower than by hand, "
        f"{len(rows) - len(timed)} could not be made.",
        f"- {given.rounds} rounds of fresh processes each; {time.monotonic() - begun:.0f} s in all.",
        f"- **{'Holds' if holds else 'Does not hold'}.**", "",
    ])  # fmt: skip
    record(text, keep=given.record)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
