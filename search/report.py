"""The report of a search: one HTML file that explains the result and opens anywhere, without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from evaluators.outcome import Constraint, Interval
from evaluators.profile import WorkloadProfile
from evaluators.target import Accelerator, Target, environment
from search.batch_charts import MOST_CURVES, batching_figure
from search.deciding import advice, decided_by
from search.result import Finals, Relaxation, SearchResult, TrialResult
from search.saturation import show_saturation
from search.under_load import report_cards, report_rows, served_cells
from search.units import show_bytes, show_ms
from search.wording import (
    NOTHING,
    command,
    ending_of,
    failures_by_kind,
    headline,
    in_shares,
    is_share,
    knobs_of,
    name_of,
    pruning_of,
    show_confidence,
    show_cost,
    show_disturbed,
    show_doubt,
    show_drop,
    show_interval,
    show_joules,
    show_limit,
    show_rate,
    show_ratios,
    show_relaxed,
    show_score,
    show_seconds,
    show_speedup,
    show_verdict,
    training_of,
    verdict_for,
    why_not,
)

_RUNTIMES = (
    "torchao",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "openvino",
    "nncf",
    "torch-pruning",
    "tensorrt",
    "coremltools",
)


def write_report(
    result: SearchResult,
    trials: Sequence[TrialResult],
    profile: WorkloadProfile | None,
    targets: Sequence[Target],
    path: Path,
) -> Path:
    """Write the report of a search, finished or not, as one self-contained HTML file and return its path.

    ``profile`` and ``targets`` add what was searched and where; without them these facts are left out.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    pages = Environment(loader=PackageLoader("search"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                        lstrip_blocks=True)  # fmt: skip
    page = pages.get_template("report.html").render(_facts(result, trials, profile, targets))
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(page, encoding="utf-8")
    scratch.replace(path)
    return path


def script_json(text: str) -> str:
    """Return JSON text that no HTML parser can mistake for markup, whatever strings it holds."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _facts(
    result: SearchResult, trials: Sequence[TrialResult], profile: WorkloadProfile | None, targets: Sequence[Target]
) -> dict[str, Any]:
    """Everything that the template shows, as text."""
    from plotly.offline import get_plotlyjs

    endings = {trial.number: ending_of(trial) for trial in trials}
    columns = _columns(result, trials)
    return {
        "result": result,
        "title": profile.name if profile else result.name,
        "headline": headline(result),
        "facts": _summary(result),
        "cards": _cards(result),
        "confidence": show_confidence(result.confidence),
        "limits": [_limit(constraint, result, trials) for constraint in result.constraints],
        "undecided": [_undecided(trial) for trial in result.undecided],
        "advice": advice(result),
        "relaxations": [_relaxation(item, result) for item in result.relaxations],
        "comparison": _comparison(result),
        "finals": result.finals and _finals(result.finals),
        "figures": {name: script_json(text) for name, text in _figures(result, trials).items()},
        "columns": columns,
        "front_rows": [_row(trial, result, columns) for trial in result.front],
        "rows": [_row(trial, result, columns) for trial in trials],
        "endings": sorted(set(endings.values())),
        "backends": sorted({trial.candidate.backend for trial in trials}),
        "failures": _failures(trials),
        "notes": [
            *([spoilt] if (spoilt := show_disturbed(result)) else []),
            *result.notes,
            *(f"{item.what} {item.advice}".strip() for item in (profile.problems if profile else ())),
        ],
        "saturation": [f"{curve.label}: {show_saturation(curve)}" for curve in result.curves[:MOST_CURVES]],
        "commands": _commands(result),
        "environment": _environment(profile, targets),
        "version": environment().get("paretune", ""),
        "css": _packaged("report.css"),
        "script": _packaged("report.js"),
        "plotly": get_plotlyjs(),
    }


def _packaged(name: str) -> str:
    return resources.files("search").joinpath("templates", name).read_text(encoding="utf-8")


def _summary(result: SearchResult) -> list[str]:
    counts = result.trials
    endings = ", ".join(f"{getattr(counts, kind)} {kind}" for kind in ("measured", "rejected", "failed", "cached"))
    return [
        ", ".join(result.targets),
        f"{counts.total} trials: {endings}",
        *([f"{counts.undecided} undecided"] if counts.undecided else []),
        f"{show_seconds(result.elapsed_s)}, {result.overhead.share:.0%} of it overhead",
        f"scored by {result.scored_by}" if result.scored_by else f"objective {result.objective}",
    ]


def _cards(result: SearchResult) -> list[dict[str, Any]]:
    best = result.best
    if best is None:
        return []
    spread = show_interval("latency_ms", best.latency_ms.ci95 if best.latency_ms else None)
    drop = show_drop(best.accuracy_drop, is_share(best))
    base, unmodified = result.baseline, result.best_float
    single = result.scenario == "single"
    cards = [
        *report_cards(result, best),
        ("latency" if single else "", f"latency {result.percentile}", show_ms(best.latency_at(result.percentile)),
         spread and f"95 %: {spread}"),
        ("throughput" if single else "", "throughput", show_rate(best.throughput_per_s),
         f"batch of {best.candidate.batch_size}"),
        *([("cost", "cost of a million", show_cost(best.cost_per_million), f"on {best.candidate.target}")]
          if best.cost_per_million is not None else []),
        ("", "accuracy", show_score(best.accuracy), f"drop {drop}"),
        ("", "against eager fp32", show_speedup(result.speedup),
         _against(base, result.speedup_ci95) if base else "not measured"),
        ("", "against the best float", show_speedup(result.speedup_over_float),
         _against(unmodified, result.speedup_over_float_ci95) if unmodified else ""),
        ("size", "size on disk", show_bytes(best.size_bytes), f"{show_bytes(base.size_bytes)} before" if base else ""),
    ]  # fmt: skip
    return [
        {"lead": lead == result.objective, "name": name, "value": value, "note": note}
        for lead, name, value, note in cards
    ]


def _against(other: TrialResult, interval: Interval | None) -> str:
    return f"95 %: {show_ratios(interval)}, {other.label}" if interval else other.label


def _limit(constraint: Constraint, result: SearchResult, trials: Sequence[TrialResult]) -> dict[str, str]:
    share = in_shares(result)
    shown = {"what": show_limit(constraint, share), "status": "unknown", "found": "not measured"}
    if result.best is None:
        verdicts = [verdict for trial in trials if (verdict := verdict_for(trial, constraint))]
        met, unsure = (sum(verdict.status == word for verdict in verdicts) for word in ("pass", "undecided"))
        return shown | {
            "status": "" if met else "undecided" if unsure else "fail",
            "found": f"met by {met} of {len(verdicts)} measured trials at {show_confidence(result.confidence)}"
                     + (f", undecided for {unsure}" if unsure else ""),
        }  # fmt: skip
    verdict = verdict_for(result.best, constraint)
    if verdict is None:
        return shown
    return shown | {"status": verdict.status, "found": show_verdict(verdict, result.confidence, share)}


def _undecided(trial: TrialResult) -> dict[str, Any]:
    return {
        "number": trial.number,
        "label": trial.label,
        "doubt": show_doubt(trial).removeprefix("undecided: "),
        "decided": decided_by(trial).partition(" would be ")[2],
    }


def _finals(finals: Finals) -> dict[str, Any]:
    """The final comparison as rows of text."""
    return {
        "rounds": finals.rounds,
        "rows": [
            {"number": row.trial, "label": row.label, "p50": show_ms(row.p50_ms), "at": show_ms(row.percentile_ms),
             "over": show_speedup(row.over_best.value, row.over_best.ci95) if row.over_best else NOTHING,
             "best": row.trial == finals.best}
            for row in finals.rows
        ],
    }  # fmt: skip


def _relaxation(item: Relaxation, result: SearchResult) -> dict[str, Any]:
    share = in_shares(result)
    near = next((trial for trial in result.nearest if trial.number == item.trial), None)
    return {
        "number": item.trial,
        "label": item.label,
        "limits": " and ".join(show_relaxed(metric, value, share) for metric, value in item.limits.items()) or NOTHING,
        "unknown": ", ".join(name_of(metric) for metric in item.unknown),
        "reason": why_not(near) if near else "",
    }


def _comparison(result: SearchResult) -> dict[str, Any]:
    named = (("as it is", result.baseline), ("best unmodified float", result.best_float), ("best", result.best))
    chosen = [(title, trial) for title, trial in named if trial is not None]
    rows: tuple[tuple[str, Callable[[TrialResult], str], Callable[[TrialResult], str]], ...] = (
        ("latency p50", lambda trial: show_ms(trial.latency_at("p50")), lambda trial: ""),
        (f"latency {result.percentile}", lambda trial: show_ms(trial.latency_at(result.percentile)),
         lambda trial: show_interval("latency_ms", trial.latency_ms.ci95 if trial.latency_ms else None)),
        ("throughput", lambda trial: show_rate(trial.throughput_per_s), lambda trial: ""),
        *report_rows(result),
        ("cost of a million inferences", lambda trial: show_cost(trial.cost_per_million), lambda trial: ""),
        ("accuracy", lambda trial: show_score(trial.accuracy),
         lambda trial: show_interval("accuracy", trial.accuracy_ci95)),
        ("accuracy drop", lambda trial: show_drop(trial.accuracy_drop, is_share(trial)),
         lambda trial: show_interval("accuracy_drop", trial.accuracy_drop_ci95, is_share(trial))),
        ("times as fast as eager fp32, timed in turn",
         lambda trial: show_speedup(trial.speedup.value if trial.speedup else None),
         lambda trial: show_ratios(trial.speedup.ci95) if trial.speedup else ""),
        ("size on disk", lambda trial: show_bytes(trial.size_bytes), lambda trial: ""),
        ("size compressed", lambda trial: show_bytes(trial.size_compressed_bytes), lambda trial: ""),
        ("peak memory", lambda trial: show_bytes(trial.peak_memory_bytes), lambda trial: ""),
        ("peak device memory", lambda trial: show_bytes(trial.device_memory_bytes), lambda trial: ""),
        ("energy of one call", lambda trial: show_joules(trial.energy_j), lambda trial: ""),
    )  # fmt: skip
    return {
        "columns": [{"title": title, "label": f"#{trial.number} {trial.label}"} for title, trial in chosen],
        "rows": [{"name": name, "cells": [{"value": value(trial), "note": note(trial)} for _, trial in chosen]}
                 for name, value, note in rows if any(value(trial) != NOTHING for _, trial in chosen)],
    }  # fmt: skip


def _figures(result: SearchResult, trials: Sequence[TrialResult]) -> dict[str, str]:
    from search.plots import factors_figure, pareto_figure, progress_figure

    if not any(trial.latency_ms or trial.size_bytes for trial in trials):
        return {}
    figures = {"front": pareto_figure(result, trials)}
    if any(trial.feasible for trial in trials):
        figures |= {"factors": factors_figure(result, trials), "progress": progress_figure(result, trials)}
    if result.curves:
        figures["batching"] = batching_figure(result.curves)
    return {name: str(figure.to_json()) for name, figure in figures.items()}


@dataclass(frozen=True)
class _Column:
    """One column of the tables of trials: its text, and the value it is sorted by (numbers where ``kind`` is n)."""

    title: str
    kind: str
    text: Callable[[TrialResult], str]
    order: Callable[[TrialResult], float | str | None]
    trials_only: bool = False
    note: Callable[[TrialResult], str] = lambda trial: ""


_COLUMNS = (
    _Column("#", "n", lambda t: str(t.number), lambda t: t.number),
    _Column("Target", "", lambda t: t.candidate.target, lambda t: t.candidate.target),
    _Column(
        "Backend",
        "",
        lambda t: t.candidate.backend,
        lambda t: t.candidate.backend,
        note=lambda t: knobs_of(t.candidate.runtime),
    ),
    _Column(
        "Quantization",
        "",
        lambda t: t.candidate.quantization.scheme,
        lambda t: t.candidate.quantization.scheme,
        note=lambda t: _joined(knobs_of(t.candidate.quantization), training_of(t, ("qat",))),
    ),
    _Column(
        "Pruning",
        "",
        lambda t: pruning_of(t.candidate),
        lambda t: pruning_of(t.candidate),
        note=lambda t: _joined(
            t.candidate.pruning.recovery_label, training_of(t, ("prune", "recover")), knobs_of(t.candidate.pruning)
        ),
    ),
    _Column("Batch", "n", lambda t: str(t.candidate.batch_size), lambda t: t.candidate.batch_size),
    _Column("Threads", "n", lambda t: str(t.candidate.runtime.threads), lambda t: t.candidate.runtime.threads),
    _Column("p50", "n", lambda t: show_ms(t.latency_at("p50")), lambda t: t.latency_at("p50")),
    _Column(
        "p95",
        "n",
        lambda t: show_ms(t.latency_at("p95")),
        lambda t: t.latency_at("p95"),
        note=lambda t: "beside other programs" if t.latency_ms and not t.latency_ms.clean else "",
    ),
    _Column("Throughput", "n", lambda t: show_rate(t.throughput_per_s), lambda t: t.throughput_per_s),
    _Column(
        "Requests",
        "n",
        lambda t: served_cells(t)[0],
        lambda t: t.server.value if t.server else None,
        note=lambda t: f"at {show_rate(t.server.rate_per_s)}" if t.server else "",
    ),
    _Column("Within", "n", lambda t: served_cells(t)[1], lambda t: t.server.sustained_per_s if t.server else None),
    _Column("Per million", "n", lambda t: show_cost(t.cost_per_million), lambda t: t.cost_per_million),
    _Column(
        "Accuracy",
        "n",
        lambda t: show_score(t.accuracy),
        lambda t: t.accuracy,
        note=lambda t: f"of {t.accuracy_examples:,} examples" if t.accuracy_complete is False else "",
    ),
    _Column("Drop", "n", lambda t: show_drop(t.accuracy_drop, is_share(t)), lambda t: t.accuracy_drop),
    _Column("Size", "n", lambda t: show_bytes(t.size_bytes), lambda t: t.size_bytes),
    _Column("Ending", "ending", ending_of, ending_of, trials_only=True),
    _Column("Why", "reason", why_not, why_not, trials_only=True),
)


def _columns(result: SearchResult, trials: Sequence[TrialResult]) -> tuple[_Column, ...]:
    """Return the columns of the tables: targets where there are several, costs where there are prices."""
    left_out = set() if len(result.targets) > 1 else {"Target"}
    left_out |= set() if any(trial.cost_per_million is not None for trial in trials) else {"Per million"}
    left_out |= set() if any(trial.server is not None for trial in trials) else {"Requests", "Within"}
    return tuple(column for column in _COLUMNS if column.title not in left_out)


def _row(trial: TrialResult, result: SearchResult, columns: Sequence[_Column]) -> dict[str, Any]:
    best = result.best is not None and trial.number == result.best.number
    measured = "front" if trial.pareto else ending_of(trial).removesuffix(" a limit")
    kind = "best front" if best else measured if trial.outcome == "measured" else trial.outcome
    cells = [
        {"kind": column.kind, "trials_only": column.trials_only, "value": column.text(trial),
         "sort": "" if (order := column.order(trial)) is None else order, "note": column.note(trial)}
        for column in columns
    ]  # fmt: skip
    return {"kind": kind, "ending": ending_of(trial), "backend": trial.candidate.backend, "cells": cells}


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _failures(trials: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """The failures by kind, those with the same reason told once with all their trials."""
    shown = []
    for kind, group in failures_by_kind(trials).items():
        cases: dict[str, list[TrialResult]] = {}
        for trial in group:
            cases.setdefault(trial.reason or "", []).append(trial)
        shown.append({"kind": kind.replace("_", " "), "count": len(group), "cases": [
            {"reason": (reason.removeprefix(f"{kind}: ")), "command": alike[0].reproduce,
             "trials": [f"#{trial.number} {trial.label}" for trial in alike]}
            for reason, alike in cases.items()
        ]})  # fmt: skip
    return shown


def _commands(result: SearchResult) -> list[dict[str, str]]:
    best = result.best or next(iter(result.nearest), None)
    wanted = [("Browse every run and model in MLflow", command(result, "ui", result.name))]
    if best is not None:
        what = "best" if result.best else "nearest"
        wanted.append((f"Run the {what} trial again", command(result, "reproduce", result.search, str(best.number))))
    wanted.append(("Go on with this search", command(result, "resume", result.search)))
    wanted.append(("All of it as JSON", command(result, "trials", result.search, "--json")))
    return [{"does": does, "line": line} for does, line in wanted]


def _accelerator(found: Accelerator | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    return [("accelerator", f"{found.name}, {found.memory_bytes / 1e9:.1f} GB, {found.driver}".rstrip(", "))]


def _environment(profile: WorkloadProfile | None, targets: Sequence[Target]) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    for target in targets:
        facts += [
            ("target", target.name), *_accelerator(target.accelerator),
            ("processor", target.processor), ("cores", str(target.cores)),
            ("memory", f"{target.memory_bytes / 1e9:.1f} GB"), ("system", target.system),
            ("features", ", ".join(target.features)), ("fingerprint", target.fingerprint),
        ]  # fmt: skip
    if profile is not None:
        layers = ", ".join(f"{count} {name}" for name, count in profile.layers.items())
        facts += [
            ("workload", profile.reference), ("model", f"{profile.parameters:,} parameters, {layers}"),
            ("original accuracy", f"{show_score(profile.accuracy)} on {profile.examples:,} examples"),
            ("workload hash", profile.fingerprint[:16]),
        ]  # fmt: skip
    return facts + list(environment(*_RUNTIMES).items())
