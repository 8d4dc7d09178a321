"""What people see of legality: on which backends each technique is legal, and why not on the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.cli.views import plain_table

if TYPE_CHECKING:
    from evaluators.legality import Pair
    from search.api import SpaceReport


def space(report: SpaceReport) -> RenderableType:
    """Every technique on every backend, target by target."""
    targets = list(dict.fromkeys(pair.target for pair in report.pairs))
    parts: list[RenderableType] = [Text(f"{report.size:,} candidates", "bold")]
    for target in targets:
        pairs = [pair for pair in report.pairs if pair.target == target]
        out = _left_out(pairs)
        title = [Text(target, "bold")] if len(targets) > 1 else []
        parts += ["", *title, _techniques([pair for pair in pairs if pair.backend not in out]), "", _settings(pairs)]
        if out:
            table = plain_table("backend", "refused as a whole")
            for backend, why in out.items():
                table.add_row(backend, why)
            parts += ["", table]
    return Group(*parts)


def _left_out(pairs: Sequence[Pair]) -> dict[str, str]:
    """Return the backends on which nothing is legal for one and the same reason, with that."""
    reasons: dict[str, set[str | None]] = {}
    for pair in pairs:
        if pair.backend is not None and pair.kind == "scheme":
            reasons.setdefault(pair.backend, set()).add(None if pair.legal else pair.why)
    return {
        backend: next(iter(found)) or "" for backend, found in reasons.items() if len(found) == 1 and None not in found
    }


def _techniques(pairs: Sequence[Pair]) -> Table:
    """Schemes and structures of pruning: where they are legal, and the refusals, alike ones together."""
    table = plain_table("technique", "legal on", "refused", folded=("legal on", "refused"))
    judged = [pair for pair in pairs if pair.kind in ("scheme", "pruning")]
    for kind, technique in sorted({(pair.kind, pair.technique) for pair in judged}, key=_order):
        mine = [pair for pair in judged if (pair.kind, pair.technique) == (kind, technique)]
        legal = ", ".join(pair.backend or "" for pair in mine if pair.legal) or "–"
        refused: dict[str, list[str]] = {}
        for pair in mine:
            if not pair.legal:
                refused.setdefault(pair.why or "", []).append(pair.backend or "")
        alone = len(refused) == 1 and legal == "–"
        said = "\n".join(why if alone else f"{', '.join(backends)}: {why}" for why, backends in refused.items())
        name = technique if kind == "scheme" else f"{technique} pruning"
        table.add_row(name, Text(legal, "" if legal != "–" else "dim"), said)
    return table


def _order(technique: tuple[str, str]) -> tuple[bool, bool, str]:
    kind, name = technique
    return kind != "scheme", name != "fp32", name


def _settings(pairs: Sequence[Pair]) -> Table:
    """Knobs and runtime options: the values that are offered, and those that are not."""
    table = plain_table("knob or option", "values", "", folded=("values", ""))
    for pair in pairs:
        if pair.kind in ("knob", "option"):
            name = pair.technique if pair.backend is None else f"{pair.backend} {pair.technique}"
            values = ", ".join(str(value) for value in pair.values)
            said = pair.why or "" if pair.legal else f"left out: {pair.why}"
            table.add_row(name, Text(values, "" if pair.legal else "dim"), said)
    return table
