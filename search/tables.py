"""Results in the terminal: plain enough for 80 columns, coloured only where the console is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from search.deciding import advice
from search.result import Finals, Relaxation, SearchResult, TrialResult
from search.under_load import SERVED_COLUMNS, served_cells, table_rows
from search.units import show_bytes, show_ms
from search.wording import (
    NOTHING,
    command,
    distinct_labels,
    ending_of,
    headline,
    in_shares,
    is_share,
    name_of,
    pruning_of,
    show_confidence,
    show_cost,
    show_disturbed,
    show_doubt,
    show_drop,
    show_interval,
    show_limit,
    show_rate,
    show_ratios,
    show_relaxed,
    show_score,
    show_seconds,
    show_speedup,
    show_verdict,
    verdict_for,
)

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

_STATUS = {"feasible": "bold green", "infeasible": "bold red", "interrupted": "bold yellow"}
_ENDINGS = {
    "on the front": "green", "feasible": "green", "undecided": "cyan", "rejected": "yellow", "over a limit": "yellow",
}  # fmt: skip


def summary(result: SearchResult) -> RenderableType:
    """The whole result on one screen: the verdict, the limits, best against the baselines, and where to see more."""
    from rich.console import Group
    from rich.text import Text

    status = Text(result.status, style=_STATUS[result.status])
    status.append(f"  {result.name} ({result.search}) on {', '.join(result.targets)}", style="default")
    parts: list[RenderableType] = [status, Text(headline(result)), Text()]
    if result.best is not None or result.baseline is not None:
        parts += [_comparison(result), Text()]
    if result.constraints and result.best is not None:
        parts += [_limits(result), Text()]
    if result.undecided:
        sure = show_confidence(result.confidence)
        parts += _titled(f"Within the limits as measured, undecided at {sure}:", undecided_table(result.undecided))
    if decisions := advice(result):
        parts += [*(Text(sentence) for sentence in decisions), Text()]
    if result.relaxations:
        relaxed = relaxations_table(result.relaxations, in_shares(result))
        sure = show_confidence(result.confidence)
        parts += _titled(f"Nearest, and what the limits would have to be at {sure}:", relaxed)
    if len(result.front) > 1:
        parts += _titled(f"The front, {len(result.front)} models that nothing beats:", front_table(result.front))
    if result.finals is not None:
        title = f"Timed in turn in fresh processes, {result.finals.rounds} rounds:"
        parts += _titled(title, finals_table(result.finals, result.percentile))
    return Group(*parts, *_closing(result))


def trials_table(trials: Sequence[TrialResult]) -> RenderableType:
    """Every trial in a row: what it was, what was measured, how it ended; doubts and reasons below, each once."""
    from rich.console import Group
    from rich.text import Text

    labels = distinct_labels(trials)
    cost = ["per million"] if any(trial.cost_per_million for trial in trials) else []
    served = list(SERVED_COLUMNS) if any(trial.server for trial in trials) else []
    table = _table("#", "candidate", "p95", "per s", *served, *cost, "accuracy", "ending")
    for trial in trials:
        ending = ending_of(trial)
        style = "" if trial.feasible else "dim"
        table.add_row(
            Text(str(trial.number), style=style), Text(labels[trial.number], style=style),
            Text(show_ms(trial.latency_at("p95")), style=style), Text(_rate(trial), style=style),
            *(Text(cell, style=style) for cell in served_cells(trial) if served),
            *([Text(show_cost(trial.cost_per_million), style=style)] if cost else []),
            Text(show_score(trial.accuracy), style=style),
            Text(ending, style=_ENDINGS.get(ending, "red" if trial.outcome == "failed" else "")),
        )  # fmt: skip
    doubts = [Text(f"#{trial.number}: {show_doubt(trial)}", style="cyan") for trial in trials if trial.undecided]
    reasons = [*doubts, *_reasons(trials)]
    return Group(table, Text(), *reasons) if reasons else table


def front_table(trials: Sequence[TrialResult]) -> RenderableType:
    """The front, best objective first."""
    from rich.text import Text

    if not trials:
        return Text("The front is empty: no trial is feasible.")
    labels = distinct_labels(trials)
    cost = ["per million"] if any(trial.cost_per_million for trial in trials) else []
    served = list(SERVED_COLUMNS) if any(trial.server for trial in trials) else []
    table = _table("#", "candidate", "p95", "per s", *served, *cost, "accuracy", "drop", "size")
    for trial in trials:
        table.add_row(
            str(trial.number), Text(labels[trial.number]), show_ms(trial.latency_at("p95")),
            _rate(trial), *(cell for cell in served_cells(trial) if served),
            *([show_cost(trial.cost_per_million)] if cost else []), show_score(trial.accuracy),
            show_drop(trial.accuracy_drop, is_share(trial)), show_bytes(trial.size_bytes),
        )  # fmt: skip
    return table


def undecided_table(trials: Sequence[TrialResult]) -> RenderableType:
    """Undecided trials, each with the limits that its intervals reach over."""
    from rich.text import Text

    labels = distinct_labels(trials)
    table = _table("#", "candidate", "undecided")
    for trial in trials:
        doubt = show_doubt(trial).removeprefix("undecided: ").replace("; ", "\n")
        table.add_row(str(trial.number), Text(labels[trial.number]), Text(doubt))
    return table


def finals_table(finals: Finals, percentile: str) -> RenderableType:
    """The final comparison: latencies over all rounds, and each time over that of the best."""
    from rich.text import Text

    table = _table("#", "candidate", "p50", percentile, "time over the best's")
    for row in finals.rows:
        over = show_speedup(row.over_best.value, row.over_best.ci95) if row.over_best else ""
        over = "the best" if row.trial == finals.best else over or NOTHING
        table.add_row(str(row.trial), Text(row.label), show_ms(row.p50_ms), show_ms(row.percentile_ms), over)
    return table


def relaxations_table(relaxations: Iterable[Relaxation], share: bool = True) -> RenderableType:
    """What each limit would have to be for the nearest candidates."""
    from rich.text import Text

    table = _table("#", "candidate", "feasible if", "not measured")
    for item in relaxations:
        limits = "\n".join(show_relaxed(metric, value, share) for metric, value in item.limits.items())
        unknown = ", ".join(name_of(metric) for metric in item.unknown)
        table.add_row(str(item.trial), Text(item.label), limits or NOTHING, unknown or NOTHING)
    return table


def _titled(title: str, body: RenderableType) -> list[RenderableType]:
    from rich.text import Text

    return [Text(title, style="bold"), body, Text()]


def _comparison(result: SearchResult) -> Table:
    """Best, best float and baseline side by side."""
    from rich.text import Text

    named = (("baseline", result.baseline), ("best float", result.best_float), ("best", result.best))
    shown = [(name, trial) for name, trial in named if trial is not None]
    table = _table("", *(name for name, _ in shown))
    for column in table.columns:
        column.justify, column.no_wrap = "left", True
    speedups = {"baseline": "1×", "best float": "", "best": show_speedup(result.speedup)}
    if result.speedup and result.speedup_over_float:
        speedups["best float"] = show_speedup(result.speedup / result.speedup_over_float)
    in_turn = [trial.speedup if result.finals is None else None for _, trial in shown]
    certain = {"best": show_ratios(result.speedup_ci95)} if result.speedup_ci95 else {}
    rows = [
        ("candidate", [_folded(trial) for _, trial in shown]),
        ("latency p50", [show_ms(trial.latency_at("p50")) for _, trial in shown]),
        (f"latency {result.percentile}", [show_ms(trial.latency_at(result.percentile)) for _, trial in shown]),
        ("  95 %", [_spread(trial) for _, trial in shown]),
        *table_rows(result, [trial for _, trial in shown]),
        ("throughput", [show_rate(trial.throughput_per_s) for _, trial in shown]),
        ("per million", [_cost(trial) for _, trial in shown]),
        ("accuracy", [show_score(trial.accuracy) for _, trial in shown]),
        ("drop", [show_drop(trial.accuracy_drop, is_share(trial)) for _, trial in shown]),
        ("size", [show_bytes(trial.size_bytes) for _, trial in shown]),
        ("speed-up", [speedups[name] for name, _ in shown]),
        ("  95 %", [certain.get(name, "") for name, _ in shown]),
        ("in turn", [show_speedup(ratio.value) if ratio else "" for ratio in in_turn]),
        ("  95 %", [show_ratios(ratio.ci95) if ratio else "" for ratio in in_turn]),
    ]
    for name, cells in rows:
        if any(cells):
            styles = ["bold" if title == "best" else "" for title, _ in shown]
            cells_shown = [Text(cell, style=style) for cell, style in zip(cells, styles, strict=True)]
            table.add_row(Text(name, style="dim"), *cells_shown)
    return table


def _limits(result: SearchResult) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    share, lines = in_shares(result), []
    for constraint in result.constraints:
        verdict = verdict_for(result.best, constraint)
        found = show_verdict(verdict, result.confidence, share) if verdict else "not measured"
        style = "green" if verdict and verdict.status == "pass" else "yellow"
        lines.append(Text(f"{show_limit(constraint, share)}: ").append(found, style=style))
    return Group(*lines)


def _closing(result: SearchResult) -> list[Text]:
    from rich.text import Text

    counts = result.trials
    endings = ", ".join(f"{getattr(counts, kind)} {kind}" for kind in ("measured", "rejected", "failed", "cached"))
    lines = [
        Text(f"{counts.total} trials ({endings}) in {show_seconds(result.elapsed_s)}, "
             f"{result.overhead.share:.0%} of it overhead"),
        *(Text(said, style="yellow") for said in (show_disturbed(result),) if said),
        *(Text(f"note: {note}", style="dim") for note in result.notes),
    ]  # fmt: skip
    if result.report:
        lines.append(Text(f"report  {result.report}"))
    lines.append(Text(f"MLflow  {command(result, 'ui', result.name)}"))
    if result.status == "interrupted":
        lines.append(Text(f"go on   {command(result, 'resume', result.search)}"))
    return lines


def _table(*titles: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False, header_style="dim")
    for title in titles:
        texts = title in ("candidate", "ending", "undecided", "feasible if", "not measured", "")
        table.add_column(title, justify="left" if texts else "right", no_wrap=not texts, overflow="fold")
    return table


def _folded(trial: TrialResult) -> str:
    """A label in two or three short lines, so that three fit beside each other."""
    candidate, pruning = trial.candidate, pruning_of(trial.candidate)
    lines = [f"{candidate.backend} {candidate.quantization.scheme}", "" if pruning == "none" else pruning]
    lines.append(f"b{candidate.batch_size} t{candidate.runtime.threads}")
    return "\n".join(line for line in lines if line)


def _spread(trial: TrialResult) -> str:
    return show_interval("latency_ms", trial.latency_ms.ci95) if trial.latency_ms else ""


def _rate(trial: TrialResult) -> str:
    return show_rate(trial.throughput_per_s).removesuffix("/s")


def _cost(trial: TrialResult) -> str:
    return "" if trial.cost_per_million is None else show_cost(trial.cost_per_million)


def _reasons(trials: Sequence[TrialResult]) -> list[Text]:
    """Why trials are not feasible, those with the same reason together."""
    from rich.text import Text

    alike: dict[str, list[int]] = {}
    for trial in trials:
        if trial.reason and trial.outcome == "failed":
            alike.setdefault(trial.reason, []).append(trial.number)
    again = {trial.number: trial.reproduce for trial in trials}
    lines = []
    for reason, numbers in alike.items():
        lines.append(Text(f"{', '.join(f'#{number}' for number in numbers)}: {reason}", style="red"))
        if again[numbers[0]]:
            lines.append(Text(f"    {again[numbers[0]]}", style="dim"))
    return lines
