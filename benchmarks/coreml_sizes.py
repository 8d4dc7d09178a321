"""Core ML packages of the examples: bytes of weights by scheme, and the programs checked operation by operation.

    python benchmarks/coreml_sizes.py [--record]

Runs on any system: packages are built for apple-m2 and not run. The text example needs its fetch.py run once before.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bundles import HERE, Workshop
from results import record

EXAMPLES = ("images", "text", "motion")
SCHEMES: tuple[tuple[str, dict[str, int]], ...] = (
    ("fp32", {}), ("fp16", {}), ("weight_int8", {}),
    ("palettized", {"bits": 8}), ("palettized", {"bits": 6}), ("palettized", {"bits": 4}),
)  # fmt: skip
MOST = {"fp16": 0.55, "weight_int8": 0.30}
"""The weights of a scheme may have at most this share of the bytes of fp32's."""


@dataclass(frozen=True)
class Row:
    """One package: its weights, their share of the float package's, and what its program holds."""

    example: str
    scheme: str
    weight_bytes: int
    share: float
    operations: Counter[str]
    stored: Counter[str]

    @property
    def holds(self) -> bool:
        """Whether the weights are as small as asked."""
        return self.share <= MOST.get(self.scheme, 1.0)


def rows_of(example: str, workshop: Workshop) -> list[Row]:
    """Build each scheme's package of one example; a build checks its program, and one that fails ends the run."""
    from evaluators.candidate import Candidate, Quantization
    from evaluators.diagnosis.coreml import read_package
    from evaluators.jobs import PrepareJob

    profile = workshop.profile(f"{HERE.parent / 'examples' / example / 'workload.py'}:workload")
    rows: list[Row] = []
    for scheme, knobs in SCHEMES:
        quantization = Quantization(scheme=scheme, deployment="ios17", **knobs)
        candidate = Candidate(target="apple-m2", backend="coreml", quantization=quantization)
        print(f"building {example} {scheme} {knobs or ''}", file=sys.stderr)
        answer = workshop.run(PrepareJob(candidate=candidate, profile=profile, home=str(workshop.home)), "prepare")
        if answer.prepared is None:
            raise SystemExit(f"{example} {scheme} was not built: {answer.outcome and answer.outcome.reason}")
        package = read_package(Path(answer.prepared.bundle) / "model.mlpackage")
        label = scheme + "".join(f" {value} {name}" for name, value in knobs.items())
        first = rows[0].weight_bytes if rows else package.weight_bytes
        operations = Counter(operation.type for operation in package.operations)
        stored: Counter[str] = Counter()
        for tensor in package.stored():
            stored[tensor.precision] += tensor.elements
        rows.append(Row(example, label, package.weight_bytes, package.weight_bytes / first, operations, stored))
    return rows


def section(rows: list[Row], command: str) -> str:
    """Return the section of RESULTS.md."""
    from evaluators.target import environment

    versions = ", ".join(f"{name} {version}" for name, version in environment("coremltools").items())
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: Core ML packages of the examples, built for apple-m2",
        f"`{command}`",
        f"{versions}. Built on {sys.platform}; nothing was run with Core ML.",
        "| example | scheme | bytes of weights | share of fp32 | operations that compute | elements stored as |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        + "\n".join(
            f"| {row.example} | {row.scheme} | {row.weight_bytes:,} | {row.share:.3f} | {_listed(row.operations, 6)} "
            f"| {_listed(row.stored, 4)} |"
            for row in rows
        ),
        "Every program was checked as it was built: as many convolutions, linear and recurrent layers and embeddings "
        "as the exported model has, and every weight stored as the scheme says.",
        f"- At most {MOST['fp16']} of float asked for fp16 and {MOST['weight_int8']} for weight_int8. "
        f"**{'Holds' if all(row.holds for row in rows) else 'Does not hold'}.**",
    ]
    return "\n\n".join(lines) + "\n"


def _listed(counts: Counter[str], most: int) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common(most))


def main() -> int:
    """Build, print and record; 1 where a package is larger than asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--example", action="append", choices=EXAMPLES, help="only this one; may be repeated")
    parser.add_argument("--home", type=Path, help="folder for caches and bundles; a temporary one without")
    parser.add_argument("--record", action="store_true", help="append the section to RESULTS.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        workshop = Workshop(given.home or Path(scratch), threads=1)
        try:
            rows = [row for example in given.example or EXAMPLES for row in rows_of(example, workshop)]
        finally:
            workshop.close()
    record(section(rows, " ".join(["python benchmarks/coreml_sizes.py", *sys.argv[1:]])), keep=given.record)
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
