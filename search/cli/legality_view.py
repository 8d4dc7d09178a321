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
        title = [Text(target, "bold")] if len(targets) > 1 else []
        parts += ["", *title, _techniques(pairs), "", _settings(pairs)]
    return Group(*parts)


def _techniques(pairs: Sequence[Pair]) -> Table:
    """Schemes and structures of pruning: where they are legal, and the refusals, alike ones together."""
    table = plain_table("technique", "legal on", "refused", folded=("legal on", "refused"))
    for technique in dict.fromkeys(pair.technique for pair in pairs if pair.kind in ("scheme", "pruning")):
        mine = [pair for pair in pairs if pair.technique == technique and pair.kind in ("scheme", "pruning")]
        legal = ", ".join(pair.backend or "" for pair in mine if pair.legal) or "–"
        refused: dict[str, list[str]] = {}
        for pair in mine:
            if not pair.legal:
                refused.setdefault(pair.why or "", []).append(pair.backend or "")
        said = "\n".join(f"{', '.join(backends)}: {why}" for why, backends in refused.items())
        kind = "" if mine[0].kind == "scheme" else " pruning"
        table.add_row(f"{technique}{kind}", Text(legal, "" if legal != "–" else "dim"), said)
    return table


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
