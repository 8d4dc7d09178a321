"""What requests at random saw of trials, as the terminal, the report and MLflow show it; nothing in other scenarios."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evaluators.outcome import ServerEvidence
from search.result import SearchResult, TrialResult
from search.units import show_ms
from search.wording import show_rate, show_serving

SERVED_COLUMNS = ("requests", "within")
"""Of tables of trials: the percentile of requests at the rate that was tested, and how many fit the budget."""

Shown = Callable[[TrialResult], str]


def report_rows(result: SearchResult) -> tuple[tuple[str, Shown, Shown], ...]:
    """Return rows of the report's comparison: a name, the value of a trial, and a note on it."""
    if result.scenario == "single":
        return ()
    return (
        (f"{result.percentile} of requests", lambda trial: show_ms(trial.server.value) if trial.server else "",
         lambda trial: f"at {show_rate(trial.server.rate_per_s)}" if trial.server else ""),
        ("requests within the budget", lambda trial: show_rate(trial.server.sustained_per_s) if trial.server else "",
         lambda trial: show_serving(trial.server) if trial.server else ""),
    )  # fmt: skip


def report_cards(result: SearchResult, best: TrialResult) -> list[tuple[str, str, str, str]]:
    """Return the report's cards of the best: the objective that it leads with, a name, a value, and a note."""
    if best.server is None:
        return []
    found = best.server
    cards = [("latency", f"{result.percentile} of requests", show_ms(found.value), f"at {show_rate(found.rate_per_s)}")]
    if found.sustained_per_s is not None:
        within = f"within {show_ms(found.budget_ms)}, {show_serving(found)}"
        cards.append(("throughput", "requests served", show_rate(found.sustained_per_s), within))
    return cards


def table_rows(result: SearchResult, trials: Sequence[TrialResult]) -> list[tuple[str, list[str]]]:
    """Return rows of the terminal's comparison: a name, and a cell for each trial."""
    served = [trial.server for trial in trials]
    if result.scenario == "single":
        return []
    return [
        (f"requests {result.percentile}", [show_ms(found.value) if found else "" for found in served]),
        ("  at", [show_rate(found.rate_per_s) if found else "" for found in served]),
        ("  within", [show_rate(found.sustained_per_s) if found and found.sustained_per_s else "" for found in served]),
        ("  served by", [_serving(found) if found else "" for found in served]),
    ]


def _serving(server: ServerEvidence) -> str:
    return "\n".join(show_serving(server).split(", "))


def served_cells(trial: TrialResult) -> tuple[str, str]:
    """Return a trial's cells of ``SERVED_COLUMNS``."""
    if trial.server is None:
        return "", ""
    within = trial.server.sustained_per_s
    return show_ms(trial.server.value), show_rate(within) if within else ""


def server_metrics(server: ServerEvidence) -> dict[str, float | int | None]:
    """Return what requests saw: ``server/rate_per_s`` is the highest within the budget, where it was looked for."""
    found: dict[str, float | int | None] = {
        f"server/{name}_ms": getattr(server, name) for name in ("p50", "p90", "p95", "p99")
    }
    found |= {
        "server/rate_per_s": server.sustained_per_s, "server/tested_per_s": server.rate_per_s,
        "server/over_budget": server.over_budget, "server/window_ms": server.window_ms,
        "server/instances": server.instances, "server/mean_batch": server.mean_batch,
        "server/busy_share": server.busy_share, "server/dropped": server.dropped, "server/requests": server.requests,
    }  # fmt: skip
    low, high = server.ci95
    return found | {"server/ci95_low_ms": low, "server/ci95_high_ms": high}


def served_note(server: ServerEvidence) -> str:
    """Say what requests saw."""
    how = "by simulation, not under load" if server.simulated else show_serving(server)
    at = f"{server.percentile} of requests {show_ms(server.value)} at {show_rate(server.rate_per_s)} ({how})"
    if server.sustained_per_s is None:
        return f"{at}."
    return f"{at}; within {show_ms(server.budget_ms)} up to {show_rate(server.sustained_per_s)}."
