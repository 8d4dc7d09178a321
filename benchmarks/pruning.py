"""What does each structure of pruning pay, in time and in size? Every one against the unpruned model.

    python benchmarks/pruning.py --rounds 8 --record

A pruned bundle and the unpruned one of the same backend and precision are built through the jobs of a trial, and timed
block by block in turn, in fresh processes for every round. Pruned without recovery: it changes neither time nor shapes.
Sizes are those of the bundles' files, as they are and deflated. Asked: 50 % of the channels of the image example gone,
at batch 32, at least 1.5 times as fast on the same backend and precision. The float precision is what is asked of every
backend; int8 is shown beside it. Exit code 0 if so, 1 if not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import report
from bundles import HERE, Built, Workshop
from results import record

from evaluators.bundle import compressed_bytes, size_bytes
from evaluators.candidate import Pruning
from evaluators.jobs import PrepareJob, Protocol
from evaluators.libraries import first_line
from evaluators.statistics import compare_rounds
from evaluators.timing.comparison import LEAST_ROUNDS, compare
from evaluators.timing.stand import Stand, StandRequest

ASKED, ASKED_SCHEME = 1.5, "fp32"
COMPARE_SECONDS = 600.0
BACKENDS = ("eager", "inductor", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Case:
    """One way to prune an example, and what it is timed on."""

    example: str
    batch: int
    structure: str
    amount: float
    knobs: dict[str, Any] = field(default_factory=dict)
    schemes: tuple[str, ...] = ("fp32",)
    backends: tuple[str, ...] = ("onnxruntime", "openvino")
    asked: bool = False


CASES = (
    Case("images", 32, "channel", 0.5, {"alignment": 8}, ("fp32", "static_int8"), BACKENDS, asked=True),
    Case("images", 32, "channel", 0.5, {"alignment": 8, "scope": "global"}),
    Case("images", 32, "depth", 0.5),
    Case("images", 32, "unstructured", 0.8, backends=("onnxruntime", "openvino", "eager")),
    Case("motion", 1, "hidden", 0.5, {"alignment": 8, "importance": "magnitude"}, backends=BACKENDS),
    Case("text", 8, "heads", 0.5, {"importance": "magnitude", "perceptron_amount": 0.5}),
    Case("text", 8, "depth", 0.3334),
)


def rows_of(case: Case, workshop: Workshop, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Build and time a case on every backend and scheme; what cannot be is a row with its reason."""
    rows = []
    for backend in case.backends:
        for scheme in case.schemes:
            if given.only and backend not in given.only.split(","):
                continue
            row: dict[str, Any] = {"case": case, "backend": backend, "scheme": scheme}
            try:
                row |= measured(case, workshop, backend, scheme, given)
            except (Exception, SystemExit) as error:  # a row of its own, and the others go on
                row["error"] = first_line(error)
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    return rows


def measured(
    case: Case, workshop: Workshop, backend: str, scheme: str, given: argparse.Namespace
) -> dict[str, Any]:  # fmt: skip
    """Return how many times as fast the pruned bundle is, and what share of the bytes it has."""
    reference = f"{HERE.parent / 'examples' / case.example / 'workload.py'}:workload"
    built = workshop.build([(backend, scheme)], case.batch, reference)
    if not built:
        return {"error": "it cannot be used here"}
    before = built[0]
    pruning = Pruning(structure=case.structure, amount=case.amount, **case.knobs)
    candidate = before.candidate.model_copy(update={"pruning": pruning})
    job = PrepareJob(candidate=candidate, profile=before.profile, home=str(workshop.home))
    answer = workshop.run(job, "prepare")
    if answer.prepared is None:
        return {"error": str(answer.outcome and answer.outcome.reason)}
    after = Built(candidate, before.profile, answer.prepared.bundle, workshop.home)
    sizes = {
        "size": size_bytes(Path(after.bundle)) / size_bytes(Path(before.bundle)),
        "compressed": compressed_bytes(Path(after.bundle)) / compressed_bytes(Path(before.bundle)),
    }
    return sizes | in_turn(before, after, Protocol(rounds=given.rounds, max_foreign_load=given.max_foreign_load))


def in_turn(before: Built, after: Built, protocol: Protocol) -> dict[str, Any]:
    """Time both in turn."""
    requests = [StandRequest(workload=each.profile.reference, bundle=each.bundle) for each in (before, after)]
    found = compare([lambda r=request: Stand(r) for request in requests], protocol, COMPARE_SECONDS)
    pairs = [(a, b) for a, b in zip(*found.log_medians, strict=True) if a is not None and b is not None]
    first, second = found.latencies
    if first is None or second is None or len(pairs) < LEAST_ROUNDS:
        return {"error": f"other programs used the processor in all but {len(pairs)} of {protocol.rounds} rounds"}
    ratio, interval = compare_rounds([a - b for a, b in pairs])
    return {"before_ms": first.p50, "after_ms": second.p50, "ratio": ratio, "interval": interval}


def line(row: dict[str, Any]) -> str:
    """Write a row of the table."""
    case: Case = row["case"]
    knobs = ", ".join(f"{name} {value}" for name, value in case.knobs.items())
    start = f"| {case.example} | {case.batch} | {case.structure} {case.amount:.0%} | {knobs or '–'} | {row['backend']} "
    start += f"{row['scheme']} "
    size = f"{row['size']:.2f}× | {row['compressed']:.2f}×" if "size" in row else "– | –"
    if "ratio" not in row:
        return f"{start}| – | – | {row['error'].replace('|', '/')} | {size} |"
    low, high = row["interval"]
    return (
        f"{start}| {row['before_ms']:.4f} | {row['after_ms']:.4f} | **{row['ratio']:.2f}** ({low:.2f} to {high:.2f}) | "
        f"{size} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="fresh processes of each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--example", choices=sorted({case.example for case in CASES}), action="append")
    parser.add_argument("--only", default="", metavar="BACKENDS", help="only these, with commas between")
    parser.add_argument("--max-foreign-load", type=float, default=0.05, help="of other programs, beside a block")
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    given = parser.parse_args()
    facts, begun, rows = report.machine(), time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="pruning-") as home:
        workshop = Workshop(Path(home), given.threads)
        try:
            for case in CASES:
                if not given.example or case.example in given.example:
                    rows += rows_of(case, workshop, given)
        finally:
            workshop.close()
    asked = [row for row in rows if row["case"].asked and row["scheme"] == ASKED_SCHEME]
    reached = [row for row in asked if row.get("ratio", 0.0) >= ASKED]
    holds = bool(asked) and len(reached) == len(asked)
    text = "\n".join([
        f"## {facts['date']}: what pruning pays, {facts['processor']}", "",
        f"`python benchmarks/pruning.py {' '.join(sys.argv[1:])}`", "", report.machine_line(facts), "",
        "| example | batch | pruning | knobs | backend | unpruned, p50 ms | pruned, p50 ms | times as fast (95 %) | "
        "size | compressed |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |", *map(line, rows), "",
        f"- 50 % of the channels of the image example at batch 32, {ASKED_SCHEME}: at least {ASKED} times as fast on "
        f"{len(reached)} of {len(asked)} backends (asked: all).",
        f"- {given.rounds} rounds of fresh processes each; {time.monotonic() - begun:.0f} s in all.",
        f"- **{'Holds' if holds else 'Does not hold'}.**", "",
    ])  # fmt: skip
    record(text, keep=given.record)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
