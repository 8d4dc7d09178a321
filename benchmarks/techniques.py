"""What is each technique worth on each backend? The tables of docs/techniques.md.

    python -m benchmarks.techniques --minutes 8 --record

For each example, every scheme of every backend and every structure of pruning (in fp32, at its known-good settings) is
built and measured as in a search, or refused with the space's own reason. What was measured is kept in techniques.json,
cell by cell, so that it may be done in parts; a cell that was disturbed by other programs, or whose candidate has
changed since, is measured again. ``--write`` writes the page from what is kept and measures nothing. Exit code 0 if
every cell is done, 3 if some are not.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators import registry
from evaluators.parameters import defaults, written
from evaluators.space import Space, derive_space
from evaluators.target import probe_target

HERE = Path(__file__).resolve().parent
KEPT, PAGE = HERE / "techniques.json", HERE.parent / "docs" / "techniques.md"
SETTINGS = {"images": (8, 1), "text": (8, 1), "motion": (1, 1)}
"""Batch size and threads of each example."""
FLOAT = "fp32"
REFUSED, FAILED = "refused", "failed"
Cells = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Technique:
    """A row: a scheme, or a structure of pruning, which is measured in fp32."""

    name: str
    pruning: bool

    def __str__(self) -> str:
        return f"{self.name} pruning" if self.pruning else self.name


def techniques() -> list[Technique]:
    """Return every scheme and structure of ours, fp32 first."""
    schemes = {scheme for (backend, scheme), item in registry.quantizers().items()
               if _ours(item) and _ours(registry.backend(backend))}  # fmt: skip
    structures = [name for name, pruner in registry.pruners().items() if _ours(pruner)]
    ordered = sorted(schemes, key=lambda scheme: (scheme != FLOAT, scheme))
    return [*(Technique(scheme, False) for scheme in ordered), *(Technique(name, True) for name in sorted(structures))]


def backends() -> list[str]:
    """Return the columns."""
    return [name for name, item in sorted(registry.backends().items()) if _ours(item)]


def declared(technique: Technique, backend: str) -> bool:
    """Whether anybody declares the technique for the backend."""
    scheme = FLOAT if technique.pruning else technique.name
    return (backend, scheme) in registry.quantizers()


def measure(example: str, cells: Cells, until: float, only: str | None) -> Iterator[None]:
    """Measure what is not known of an example yet; yields after each cell, for it to be kept."""
    from benchmarks.attempts import Trials

    size, threads = SETTINGS[example]
    with tempfile.TemporaryDirectory(prefix="techniques-") as home, Trials(Path(home), 600.0) as trials:
        profile = trials.profile(example)
        space = derive_space(profile, probe_target(), batch_sizes=(size,), threads=threads)
        refusals = _refusals(space)
        for technique in techniques():
            for backend in backends():
                if not declared(technique, backend) or (only and only not in (str(technique), backend)):
                    continue
                key = f"{technique} on {backend}"
                candidate, why = _candidate(space, technique, backend, refusals, (size, threads))
                if candidate is None:
                    cells[key] = {REFUSED: why}
                    continue
                if time.monotonic() > until or _done(cells.get(key, {}), candidate.to_json()):
                    continue
                print(f"{example}: {key}", file=sys.stderr, flush=True)
                cells[key] = {"candidate": candidate.to_json(), **_measured(trials.run(candidate, profile))}
                yield
    yield


def _done(cell: dict[str, Any], candidate: dict[str, Any]) -> bool:
    """Whether a cell is of this candidate, and was not disturbed by other programs."""
    return cell.get("candidate") == candidate and (FAILED in cell or cell["clean"])


def _candidate(
    space: Space, technique: Technique, backend: str, refusals: dict[tuple[str, str], str], setting: tuple[int, int]
) -> tuple[Any, str]:
    """Return the known-good candidate of a cell, or None and why the space refuses it."""
    if (why := refusals.get((str(technique), backend))) is not None:
        return None, why
    size, threads = setting
    if not technique.pruning:
        return space.recipe(backend, technique.name, size, threads), ""
    amount = space.amounts[technique.name].default
    knobs = space.knobs_given(technique.name, amount)
    chosen = written(knobs, defaults(knobs))
    return space.recipe(backend, FLOAT, size, threads, structure=technique.name, amount=amount, **chosen), ""


def _refusals(space: Space) -> dict[tuple[str, str], str]:
    from evaluators.joint_space import JointSpace
    from evaluators.legality import explain_legality

    pairs = explain_legality(JointSpace({space.target.name: space}))
    return {
        (str(Technique(pair.technique, pair.kind == "pruning")), str(pair.backend)): str(pair.why)
        for pair in pairs if pair.kind in ("scheme", "pruning") and not pair.legal
    }  # fmt: skip


def _measured(outcome: Any) -> dict[str, Any]:
    """Return what a table shows of an outcome."""
    if outcome.failure is not None:
        return {FAILED: f"{outcome.failure.kind}: {outcome.failure.reason}"}
    evidence = outcome.evidence
    latency, accuracy = evidence.latency, evidence.accuracy
    speedup = latency.speedup
    return {
        "p50_ms": latency.p50, "clean": latency.clean, "size_bytes": evidence.size_bytes,
        "speedup": None if speedup is None else [speedup.value, *speedup.ci95],
        "drop": accuracy.drop, "drop_ci95": accuracy.drop_ci95,
    }  # fmt: skip


def table(example: str, kept: dict[str, Any]) -> str:
    """Write the table of an example, and the reasons under it."""
    cells, notes = kept.get(example, {}).get("cells", {}), dict[str, int]()
    lines = [
        f"| technique | {' | '.join(f'`{name}`' for name in backends())} |",
        "| --- |" + " --- |" * len(backends()),
    ]
    for technique in techniques():
        shown = [_cell(cells, technique, backend, notes) for backend in backends()]
        lines.append(f"| `{technique.name}`{' pruning' if technique.pruning else ''} | {' | '.join(shown)} |")
    reasons = [f"{number}. {why}" for why, number in notes.items()]
    machine = kept.get(example, {}).get("machine")
    size, threads = SETTINGS[example]
    about = f"Batch {size}, {threads} thread{'s' if threads > 1 else ''}." + (f" {machine}" if machine else "")
    return "\n".join([about, "", *lines, "", *reasons])


def _cell(cells: Cells, technique: Technique, backend: str, notes: dict[str, int]) -> str:
    if not declared(technique, backend):
        return ""
    cell = cells.get(f"{technique} on {backend}")
    if cell is None:
        return "not measured"
    for how in (REFUSED, FAILED):
        if how in cell:
            why = " ".join(str(cell[how]).replace("|", "/").split())
            return f"{how} ({notes.setdefault(why, len(notes) + 1)})"
    base = cells.get(f"{FLOAT} on {backend}", {}).get("size_bytes")
    speedup = cell["speedup"]
    faster = "1×" if (technique.name, backend) == (FLOAT, "eager") else "–"
    if speedup is not None:
        faster = f"**{speedup[0]:.2f}×** ({speedup[1]:.2f}–{speedup[2]:.2f})"
    size = f"size {cell['size_bytes'] / base:.2f}" if base else "size –"
    parts = [faster, size, f"drop {cell['drop']:+.4f}"]
    return "<br>".join([*parts, *([] if cell["clean"] else ["disturbed"])])


def filled(page: str, kept: dict[str, Any]) -> str:
    """Return the page with the table of every example as it is kept now."""
    for example in SETTINGS:
        pattern = re.compile(rf"(<!-- {example} -->\n).*?(<!-- end -->)", re.S)
        text = table(example, kept)
        page, count = pattern.subn(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"{PAGE} has {count} places for the table {example!r}; it must have one")
    return page


def read() -> dict[str, Any]:
    """Return what is kept: for each example the machine and the cells."""
    kept: dict[str, Any] = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    return kept


def missing(kept: dict[str, Any], examples: list[str]) -> list[str]:
    """Return the cells that nothing is known of, or that were disturbed."""
    unclean = {"clean": False}
    return [
        f"{example}: {technique} on {backend}"
        for example in examples for technique in techniques() for backend in backends()
        if declared(technique, backend)
        and not kept.get(example, {}).get("cells", {}).get(f"{technique} on {backend}", unclean).get("clean", True)
    ]  # fmt: skip


def _ours(item: object) -> bool:
    return type(item).__module__.startswith("evaluators.")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--example", action="append", choices=tuple(SETTINGS), default=[])
    parser.add_argument("--only", help="one technique or one backend")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many; another run goes on")
    parser.add_argument("--write", action="store_true", help="write the page from what is kept, and measure nothing")
    parser.add_argument("--record", action="store_true", help="write the page, too")
    given = parser.parse_args()
    kept, until = read(), time.monotonic() + 60 * given.minutes
    for example in () if given.write else given.example or tuple(SETTINGS):
        from benchmarks import report

        facts = report.machine()
        cells = kept.setdefault(example, {}).setdefault("cells", {})
        for _ in measure(example, cells, until, given.only):
            kept[example]["machine"] = f"{facts['date'][:10]}, {facts['processor']}, {report.machine_line(facts)}"
            KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    for example in SETTINGS:
        print(f"{example}\n\n{table(example, kept)}\n")
    if given.record or given.write:
        PAGE.write_text(filled(PAGE.read_text(), kept))
    left = missing(kept, given.example or list(SETTINGS))
    if left:
        print(f"{len(left)} cells are not done: {'; '.join(left[:8])}", file=sys.stderr)
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
