"""What people see of promotions: values in, rich renderables out."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from search.cli.views import facts_table, plain_table
from search.units import show_bytes, show_ms
from search.wording import show_drop, show_score, show_speedup

if TYPE_CHECKING:
    from search.promotion.diffing import DiffReport
    from search.promotion.gates import Gate
    from search.promotion.lifecycle import HistoryReport, ReconcileReport
    from search.promotion.promoting import PromotionReport
    from search.promotion.revalidation import RevalidationReport

_STYLES = {"passed": "green", "refused": "bold red", "skipped": "yellow"}


def promotion(report: PromotionReport) -> RenderableType:
    """The gates one by one, and where the alias points now."""
    name = f"{report.model}@{report.alias}"
    lines: list[RenderableType] = [_gates(report.gates), ""]
    if report.status == "refused":
        lines.append(Text(f"{name} is as it was: trial {report.trial} ({report.label}) was refused", "bold red"))
        return Group(*lines)
    before = f", version {report.previous_version} is kept" if report.previous_version is not None else ""
    lines.append(Text(f"{name} is version {report.version} now{before}: {report.label}", "bold green"))
    if report.served is not None:
        lines.append(Text(f"served {report.served.rows} real rows, largest difference from the bundle "
                          f"{report.served.difference:.2g}"))  # fmt: skip
    lines += [Text(f"note: {text}", "yellow") for text in report.notes]
    lines.append(Text(f"load it as {report.uri}, or: paretune export {name} --format mlserver -o {report.model}"))
    return Group(*lines)


def history(report: HistoryReport) -> RenderableType:
    """Every step, and the versions."""
    steps = plain_table("when", "alias", "what", "version", "before", "detail")
    for step in report.steps:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(step.created_at))
        steps.add_row(when, step.alias, step.event.replace("_", " "), _version(step.version),
                      _version(step.previous_version), step.detail)  # fmt: skip
    versions = plain_table("version", "aliases", "latency", "accuracy", "model")
    for version in report.versions:
        certificate = version.certificate
        latency = certificate.measured.latency if certificate else None
        accuracy = certificate.measured.accuracy if certificate else None
        versions.add_row(
            str(version.version), ", ".join(version.aliases) or "–", show_ms(latency.value) if latency else "–",
            show_score(accuracy.accuracy) if accuracy else "–",
            certificate.label if certificate else "never passed a gate",
        )  # fmt: skip
    return Group(steps, "", versions)


def diff(report: DiffReport) -> RenderableType:
    """A and B side by side, and how B differs."""
    table = plain_table("", "A", "B")
    rows = (
        ("bundle", report.a.reference, report.b.reference),
        ("model", report.a.label, report.b.label),
        (f"accuracy ({report.scored_by})", show_score(report.a.accuracy), show_score(report.b.accuracy)),
        ("latency p50", show_ms(report.a.p50_ms), show_ms(report.b.p50_ms)),
        (f"latency {report.percentile}", show_ms(report.a.percentile_ms), show_ms(report.b.percentile_ms)),
        ("size", show_bytes(report.a.size_bytes), show_bytes(report.b.size_bytes)),
    )
    for row in rows:
        table.add_row(*row)
    ratio = report.latency_ratio
    facts = {
        "answers": f"{report.rows} rows, agreement {report.agreement:.4g}, {report.sqnr_db:.3g} dB, largest difference "
                   f"{report.largest_difference:.3g}",
        **_difference(report),
        **({"time of B over A": show_speedup(ratio.value, ratio.ci95)} if ratio else {}),
        **{f"note {number}": text for number, text in enumerate(report.notes, 1)},
    }  # fmt: skip
    return Group(table, "", facts_table(facts))


def _difference(report: DiffReport) -> dict[str, str]:
    """Say how much more accurate B is, and how surely."""
    if report.accuracy_difference is None:
        return {}
    share = all(0 <= (side.accuracy or 0.0) <= 1 for side in (report.a, report.b))
    spread = report.accuracy_difference_ci95
    sure = f" (95 %: {show_drop(spread[0], share)} to {show_drop(spread[1], share)})" if spread else ""
    return {"accuracy of B over A": f"{show_drop(report.accuracy_difference, share)}{sure}"}


def reconciled(report: ReconcileReport) -> RenderableType:
    """Every alias, and whether it points at what passed its gates."""
    if not report.aliases:
        return Text("nothing was ever promoted from this home")
    table = plain_table("alias", "", "left at", "points at", "why")
    for alias in report.aliases:
        style = "bold red" if alias.flagged else "green" if alias.status == "agrees" else "yellow"
        table.add_row(f"{alias.model}@{alias.alias}", Text(alias.status, style), _version(alias.expected),
                      _version(alias.found), alias.why)  # fmt: skip
    return table


def revalidation(report: RevalidationReport) -> RenderableType:
    """The gates again, and whether the certificate holds."""
    name = f"{report.model}@{report.alias} version {report.version}"
    latency = f"{report.percentile} {show_ms(report.latency_then_ms)} then, {show_ms(report.latency_now_ms)} now"
    verdict = (Text(f"the certificate of {name} holds ({latency})", "bold green") if report.holds
               else Text(f"the certificate of {name} does not hold", "bold red"))  # fmt: skip
    return Group(_gates(report.gates), "", verdict)


def _gates(gates: Iterable[Gate]) -> RenderableType:
    table = plain_table("gate", "", "found")
    for gate in gates:
        found = Text(gate.found).append(f"\n{gate.advice}" if gate.advice else "", "dim")
        table.add_row(gate.gate, Text(gate.status, _STYLES[gate.status]), found)
    return table


def _version(version: int | None) -> str:
    return "–" if version is None else str(version)
