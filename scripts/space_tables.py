"""Write the tables of docs/space.md from what is declared: ``python scripts/space_tables.py``.

What stands between ``<!-- NAME -->`` and the next ``<!-- end -->`` is replaced. Plugins of others are left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from evaluators import registry
from evaluators.parameters import Parameter
from evaluators.target import DEVICES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "space.md"
Rows = list[tuple[str, ...]]


def backends() -> Rows:
    """One row for each backend of ours."""
    rows: Rows = [("backend", "targets", "runtime options", "needs")]
    for name, item in sorted(registry.backends().items()):
        if _ours(item):
            families = [f"`{family}-…`" for family, device in DEVICES.items() if device in item.devices]
            options = ", ".join(f"`{option.name}`" for option in item.options) or "–"
            needs = f"`paretune[{item.extra}]`" if item.extra else "nothing more"
            rows.append((f"`{name}`", ", ".join(families), options, needs))
    return rows


def schemes() -> Rows:
    """One row for each scheme of each backend of ours."""
    rows: Rows = [("backend", "scheme", "quantizer", "target must have one of", "needs")]
    for (backend, scheme), item in sorted(registry.quantizers().items()):
        if _ours(item) and _ours(registry.backend(backend)):
            offered = [device for device in registry.backend(backend).devices if device in (item.devices or (device,))]
            on = "" if len(offered) == len(registry.backend(backend).devices) else f", on {', '.join(offered)} only"
            features = ", ".join(f"`{feature}`" for feature in item.needs) or "–"
            needs = ", ".join(item.requires) or "–"
            file = "/".join(type(item).__module__.split(".")[1:])
            rows.append((f"`{backend}`", f"`{scheme}`{on}", f"`{file}.py`", features, needs))
    return rows


def knobs() -> Rows:
    """One row for each knob of the schemes of a backend of ours; schemes that declare it alike share a row."""
    found: dict[tuple[str, Parameter], list[str]] = {}
    for (backend, scheme), item in sorted(registry.quantizers().items()):
        for knob in item.parameters if _ours(item) else ():
            found.setdefault((backend, knob), []).append(scheme)
    rows: Rows = [("backend", "schemes", "knob", "values", "meaning")]
    for (backend, knob), of in found.items():
        rows.append((f"`{backend}`", ", ".join(of), f"`{knob.name}`", values(knob), knob.description))
    return rows


def options() -> Rows:
    """One row for each runtime option of the backends of ours."""
    rows: Rows = [("backend", "option", "values", "meaning")]
    for name, item in sorted(registry.backends().items()):
        for option in item.options if _ours(item) else ():
            rows.append((f"`{name}`", f"`{option.name}`", values(option), option.description))
    return rows


def structures() -> Rows:
    """One row for each pruner of ours."""
    rows: Rows = [("structure", "file", "amount", "it pays")]
    for name, item in sorted(registry.pruners().items()):
        if _ours(item):
            amount, first, last = item.amount, item.amount.values[0], item.amount.values[-1]
            grid = f"{first} to {last} in steps of {amount.step}" if first != last else f"{first}"
            file = "/".join(type(item).__module__.split(".")[1:])
            needs = f"; the target must have {' or '.join(f'`{each}`' for each in item.needs)}" if item.needs else ""
            rows.append((f"`{name}`", f"`{file}.py`", f"{grid}: {amount.description}{needs}", item.pays))
    return rows


def pruner_knobs() -> Rows:
    """One row for each knob of the pruners of ours; structures that declare it alike share a row."""
    found: dict[Parameter, list[str]] = {}
    for name, item in sorted(registry.pruners().items()):
        for knob in item.parameters if _ours(item) else ():
            found.setdefault(knob, []).append(name)
    rows: Rows = [("structures", "knob", "values", "meaning")]
    for knob, of in found.items():
        rows.append((", ".join(of), f"`{knob.name}`", values(knob), knob.description))
    return rows


def values(parameter: Parameter) -> str:
    """List the values of a knob, the known-good one in bold."""
    words = [(str(each).lower() if isinstance(each, bool) else str(each), each) for each in parameter.values]
    return ", ".join(f"**{word}**" if each == parameter.default else word for word, each in words)


def table(rows: Rows) -> str:
    """Write rows as a table of Markdown; the first one is its head."""
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *body])


TABLES: dict[str, Callable[[], Rows]] = {
    "backends": backends, "options": options, "schemes": schemes, "knobs": knobs, "structures": structures,
    "pruner knobs": pruner_knobs,
}  # fmt: skip


def filled(page: str) -> str:
    """Return the page with every table as it is declared now."""
    for name, rows in TABLES.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        text = table(rows())
        page, count = pattern.subn(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)  # type: ignore[misc]
        if count != 1:
            raise SystemExit(f"{PAGE} has {count} places for the table {name!r}; it must have one")
    return page


def _ours(item: object) -> bool:
    return type(item).__module__.startswith("evaluators.")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
