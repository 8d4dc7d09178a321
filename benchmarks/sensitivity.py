"""What keeping the layers in float that int8 costs most is worth: accuracy and speed at each float_share.

    PARETUNE_TEXT_ASSETS=... python benchmarks/sensitivity.py --record

The static_int8 recipe of each backend on each example, with every other knob at its default, at every float_share that
its space offers. Each is built, compared with the original model and scored on validation by the jobs of a trial; then
all shares of a backend are timed block by block in turn, in fresh processes for every round. The layers that stay in
float are those of ``paretune sensitivity``, and stand above the table.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import report
from bundles import HERE, Workshop
from results import record

from evaluators.candidate import Candidate, Quantization
from evaluators.jobs import CompareJob, MeasureJob, PrepareJob, Protocol, SensitivityJob
from evaluators.outcome import Evidence
from evaluators.profile import WorkloadProfile
from evaluators.sensitivity import LayerSensitivity
from evaluators.space import Space, derive_space
from evaluators.statistics import compare_rounds
from evaluators.target import probe_target

EXAMPLES, BACKENDS = ("text", "images"), ("onnxruntime", "openvino")
SHOWN = 5


@dataclass
class Row:
    """One share of one backend: what was found of its bundle, or why it was not built."""

    candidate: Candidate
    bundle: str = ""
    evidence: Evidence | None = None
    why: str = ""
    speed: str = "–"
    p50_ms: float = math.nan

    @property
    def share(self) -> float:
        """The share of the layers that stays in float."""
        return float(self.candidate.quantization.knobs.get("float_share", 0.0))


def candidates(space: Space, backend: str, batch_size: int, threads: int) -> list[Candidate]:
    """Return the recipe at every share that the space offers."""
    recipe = space.recipe(backend, "static_int8", batch_size, threads)
    offered = {knob.name: knob.values for knob in space.knobs[backend, "static_int8"]}.get("float_share", ())
    knobs = recipe.quantization.knobs
    shares = [Quantization(scheme="static_int8", **knobs, float_share=share) for share in offered if share]
    return [recipe, *(recipe.model_copy(update={"quantization": quantization}) for quantization in shares)]


def measured(workshop: Workshop, profile: WorkloadProfile, candidate: Candidate) -> Row:
    """Build and score one candidate."""
    row, home = Row(candidate), str(workshop.home)
    prepared = workshop.run(PrepareJob(candidate=candidate, profile=profile, home=home), "prepare")
    if prepared.prepared is None:
        row.why = (prepared.outcome and prepared.outcome.reason) or "it gave no answer"
        return row
    row.bundle = prepared.prepared.bundle
    job = MeasureJob(bundle=row.bundle, profile=profile, home=home, constraints=(), gates=False)
    outcome = workshop.run(job, "measure").outcome
    if outcome is None or outcome.kind != "measured":
        row.why = (outcome and outcome.reason) or "it gave no answer"
        return row
    row.evidence = outcome.evidence
    return row


def timed(
    workshop: Workshop, profile: WorkloadProfile, rows: Sequence[Row], protocol: Protocol, seconds: float
) -> None:
    """Time the bundles of one backend in turn, and note the p50 of each and its speed over the first one's."""
    bundles = tuple(row.bundle for row in rows)
    job = CompareJob(bundles=bundles, profile=profile, home=str(workshop.home), protocol=protocol, seconds=seconds)
    found = workshop.run(job, "compare").comparison
    if found is None:
        return
    for row, latency, medians in zip(rows, found.latencies, found.log_medians, strict=True):
        pairs = [(a, b) for a, b in zip(found.log_medians[0], medians, strict=True) if a is not None and b is not None]
        row.p50_ms = latency.p50 if latency is not None else math.nan
        if len(pairs) > 1 and row is not rows[0]:
            ratio, (low, high) = compare_rounds([a - b for a, b in pairs])
            row.speed = f"{ratio:.2f}× ({low:.2f}–{high:.2f})"


def line(row: Row) -> str:
    """Write a row of the table."""
    start = f"| {row.candidate.backend} | {row.share:g} "
    found = row.evidence
    if found is None or found.parity is None or found.accuracy is None:
        return f"{start}| – | – | – | – | {row.why.replace('|', '/')} |"
    low, high = found.accuracy.drop_ci95 or (math.nan, math.nan)
    drop = f"{found.accuracy.drop:+.4f} ({low:+.4f} to {high:+.4f})"
    return f"{start}| {found.parity.sqnr_db:.1f} | {drop} | {row.p50_ms:.3f} | {row.speed} | |"


def ranking(layers: Sequence[LayerSensitivity]) -> str:
    """Name the layers that int8 costs most."""
    shown = (f"`{layer.name}` {layer.sqnr_db:.1f} dB" for layer in layers[:SHOWN])
    return f"{len(layers)} layers, the first {SHOWN}: {', '.join(shown)}."


def section(example: str, given: argparse.Namespace, home: Path) -> list[str]:
    """Measure every backend on one example."""
    workshop = Workshop(home, given.threads)
    try:
        profile = workshop.profile(f"{HERE.parent / 'examples' / example / 'workload.py'}:workload")
        space = derive_space(profile, probe_target(), batch_sizes=(given.batch_size,), threads=given.threads)
        layers = workshop.run(SensitivityJob(profile=profile, home=str(workshop.home)), "sensitivity").layers or ()
        lines = [f"### {example}", "", ranking(layers), "",
                 "| backend | float_share | SQNR, dB | accuracy drop (95 %) | p50, ms | speed over float_share 0 | |",
                 "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
        for backend in given.backends:
            if backend not in space.schemes:
                lines.append(f"| {backend} | – | – | – | – | – | it cannot be used here |")
                continue
            rows = [measured(workshop, profile, each)
                    for each in candidates(space, backend, given.batch_size, given.threads)]  # fmt: skip
            built = [row for row in rows if row.evidence is not None]
            timed(workshop, profile, built, Protocol(max_foreign_load=given.max_foreign_load), given.seconds)
            for row in rows:
                lines.append(line(row))
                print(lines[-1], file=sys.stderr, flush=True)
        return [*lines, ""]
    finally:
        workshop.close()


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", nargs="+", default=list(EXAMPLES))
    parser.add_argument("--backends", nargs="+", default=list(BACKENDS))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=120.0, help="that timing the shares of a backend may take")
    parser.add_argument("--max-foreign-load", type=float, default=0.05)
    parser.add_argument("--record", action="store_true", help="append the report to benchmarks/RESULTS.md")
    given = parser.parse_args(argv)
    facts = report.machine()
    lines = [f"## {facts['date']}: layers kept in float, {facts['processor']}", "",
             f"`python benchmarks/sensitivity.py {' '.join(argv)}`", "", report.machine_line(facts), "",
             f"static_int8 at batch size {given.batch_size}, threads {given.threads}.", ""]  # fmt: skip
    for example in given.examples:
        with tempfile.TemporaryDirectory(prefix="sensitivity-") as scratch:
            lines += section(example, given, Path(scratch))
    record("\n".join(lines) + "\n", keep=given.record)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
