"""What pytest says at its end: each backend and scheme, passed, failed, or not run and why. Imported by a conftest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

PROPERTY = "conformance"

Row = tuple[str, str]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """List what the conformance suite found, also of tests that ran in other processes."""
    found = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "call"
        for name, value in getattr(report, "user_properties", ())
        if name == PROPERTY
    ]
    if found:
        terminalreporter.section("conformance of backends")
        for row in summarize(found):
            terminalreporter.write_line("  ".join(row))


def summarize(found: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return for each backend and scheme how its checks ended, and beneath it what was not run, each reason once."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in found:
        groups.setdefault(f"{result['backend']} {result['scheme']}".strip(), []).append(result)
    rows: list[Row] = []
    for name, results in sorted(groups.items()):
        passed, failed, missing = (
            [item for item in results if item["status"] == status] for status in ("passed", "failed", "unavailable")
        )
        counts = [f"{len(part)} {word}" for part, word in ((passed, "passed"), (failed, "FAILED")) if part]
        rows.append((f"{name:<28}", ", ".join(counts) or "not run"))
        rows += [("", f"  FAILED {item['case']} {item['check']}: {item['reason']}") for item in failed]
        for reason in dict.fromkeys(item["reason"] for item in missing):
            concerned = [item for item in missing if item["reason"] == reason]
            which = dict.fromkeys(f"{item['case']} {item['check']}" for item in concerned)
            told = f" ({', '.join(which)})" if passed and len(which) <= SHOWN else ""
            rows.append(("", f"  not run, {len(concerned)} times{told}: {reason}"))
    return rows


SHOWN = 3
