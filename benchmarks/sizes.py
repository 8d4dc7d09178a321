"""Bundles of the examples in bytes: every scheme of every backend that runs here, as a share of the backend's fp32.

    python benchmarks/sizes.py [--example images] [--backend eager] [--record]

Each is the known-good recipe at batch 1 and one thread, built as a trial builds it and not run. Schemes with weights in
8 bits or fewer are held to at most 0.30 of fp32 wherever the scheme quantizes what holds the model's weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bundles import HERE, Workshop
from results import record

EXAMPLES = ("images", "text", "motion")
MOST = 0.30
"""Share of fp32's bytes that weights in 8 bits may have."""

_RECURRENT = "recurrent layers stay float: none of their products has a range that calibration finds"
LEFT_FLOAT = {
    ("images", "eager", "dynamic_int8"): "convolutions stay float: torch quantizes none at every call",
    **{("motion", backend, "static_int8"): _RECURRENT for backend in ("eager", "inductor", "onnxruntime", "openvino")},
}
"""Why a scheme leaves most weights of an example in float, where it does: nothing is claimed of those bundles."""


@dataclass(frozen=True)
class Row:
    """One bundle, or why there is none."""

    example: str
    backend: str
    scheme: str
    size_bytes: int | None
    share: float | None
    graph_bytes: int = 0
    weights_share: float | None = None
    why: str = ""

    @property
    def claimed(self) -> bool:
        """Whether the scheme stores the weights of this example in 8 bits or fewer."""
        return self.share is not None and "int" in self.scheme and not self.why

    @property
    def holds(self) -> bool:
        """Whether the bundle is as small as asked, where something is asked."""
        return not self.claimed or (self.share is not None and self.share <= MOST)


def rows_of(example: str, workshop: Workshop, backends: Sequence[str]) -> list[Row]:
    """Build the recipe of each backend and scheme of one example; what cannot be built is told with its reason."""
    from evaluators.jobs import PrepareJob
    from evaluators.space import derive_space
    from evaluators.target import probe_target

    profile = workshop.profile(f"{HERE.parent / 'examples' / example / 'workload.py'}:workload")
    space = derive_space(profile, probe_target(), only_backends=backends, batch_sizes=(1,), threads=1)
    rows: list[Row] = []
    for backend, schemes in space.schemes.items():
        floats = weights = 0
        for scheme in schemes:
            candidate = space.recipe(backend, scheme, 1, 1)
            print(f"building {example} {candidate.label()}", file=sys.stderr)
            answer = workshop.run(PrepareJob(candidate=candidate, profile=profile, home=str(workshop.home)), "prepare")
            if answer.prepared is None:
                reason = answer.outcome.reason if answer.outcome else "no answer"
                rows.append(Row(example, backend, scheme, None, None, why=reason.splitlines()[0][:120]))
                continue
            size, graph = bundle_bytes(Path(answer.prepared.bundle)), graph_bytes(Path(answer.prepared.bundle))
            floats, weights = (size, size - graph) if scheme == "fp32" else (floats, weights)
            why = LEFT_FLOAT.get((example, backend, scheme), "")
            share, weights_share = (size / floats, (size - graph) / weights) if floats else (None, None)
            rows.append(Row(example, backend, scheme, size, share, graph, weights_share, why))
    return rows


def bundle_bytes(bundle: Path) -> int:
    """Return the bytes of a bundle, as evidence states them."""
    from evaluators.bundle import size_bytes

    return size_bytes(bundle)


def graph_bytes(bundle: Path) -> int:
    """Return the bytes of what describes the graph beside its weights, where a format keeps the two apart."""
    from evaluators.bundle import MANIFEST

    texts = (path for path in bundle.rglob("*") if path.suffix in (".xml", ".json") and path.name != MANIFEST)
    return sum(path.stat().st_size for path in texts)


def missed(row: Row) -> str:
    """Say how far a bundle is from what is asked, and how much of that are weights."""
    text = f"{row.graph_bytes:,} bytes are the graph's text, weights alone have {row.weights_share or 0.0:.3f}"
    return f"{row.example} {row.backend} {row.scheme} ({row.share:.3f}; {text})"


def line(row: Row) -> str:
    """Return a row of the table."""
    size = "–" if row.size_bytes is None else f"{row.size_bytes:,}"
    share = "–" if row.share is None else f"{row.share:.3f}"
    of_graph = f"{row.graph_bytes:,}" if row.graph_bytes else "–"
    return f"| {row.example} | {row.backend} | {row.scheme} | {size} | {share} | {of_graph} | {row.why or '–'} |"


def section(rows: Sequence[Row], command: str) -> str:
    """Return the section of RESULTS.md."""
    from evaluators.target import environment, probe_target

    versions = ", ".join(
        f"{name} {version}" for name, version in environment("onnxruntime", "openvino", "nncf", "torchao").items()
    )
    late = [row for row in rows if not row.holds]
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: bundles of the examples in bytes",
        f"`{command}`",
        f"{probe_target().name}; {versions}.",
        "| example | backend | scheme | bytes | share of fp32 | of which the graph's text | remark |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
        + "\n".join(line(row) for row in rows),
        f"- At most {MOST:.2f} of fp32 where weights are stored in 8 bits or fewer: "
        f"{sum(row.claimed for row in rows)} bundles. "
        + ("**Holds.**" if not late else f"**Does not hold** for {', '.join(missed(row) for row in late)}."),
    ]  # fmt: skip
    return "\n\n".join(lines) + "\n"


def main() -> int:
    """Build, print and record; 1 where a bundle is larger than asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--example", action="append", choices=EXAMPLES, help="only this one; may be repeated")
    parser.add_argument("--backend", action="append", default=[], help="only this one; may be repeated")
    parser.add_argument("--home", type=Path, help="folder for caches and bundles; a temporary one without")
    parser.add_argument("--record", action="store_true", help="append the section to RESULTS.md")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        workshop = Workshop(given.home or Path(scratch), threads=1)
        try:
            rows = [row for name in given.example or EXAMPLES for row in rows_of(name, workshop, given.backend)]
        finally:
            workshop.close()
    record(section(rows, " ".join(["python benchmarks/sizes.py", *sys.argv[1:]])), keep=given.record)
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
