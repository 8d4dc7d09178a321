"""What MLflow shows of a trial: metrics, parameters, tags and a note. Pure functions over results."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from typing import Any

from evaluators.candidate import Candidate
from search.result import SearchResult, TrialResult
from search.under_load import served_note, server_metrics
from search.units import show_bytes, show_ms
from search.wording import (
    all_knobs,
    ending_of,
    is_share,
    show_bucketing,
    show_drop,
    show_interval,
    show_rate,
    show_score,
    show_speedup,
    verdict_for,
    why_not,
)

_LONGEST = 5000
_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_\-. /]")


def metrics_of(trial: TrialResult) -> dict[str, float]:
    """Return the numbers that were measured, by section: latency, throughput, quality, cost, stage."""
    latency = trial.latency_ms
    found: dict[str, float | int | None] = {}
    if latency is not None:
        found |= {f"latency/{name}_ms": getattr(latency, name) for name in ("p50", "p90", "p95", "p99")}
        found |= _bounds("latency", latency.ci95, "_ms")
        found |= {f"latency/{name}": getattr(latency, name) for name in ("samples", "processes", "polluted")}
    if trial.speedup is not None:
        found["latency/speedup"] = trial.speedup.value
        found |= _bounds("latency/speedup", trial.speedup.ci95)
    if trial.server is not None:
        found |= server_metrics(trial.server)
    found["throughput/per_s"] = trial.throughput_per_s
    if trial.bucketing is not None:
        found["throughput/bucketing_gain"] = trial.bucketing.gain.value
        found |= _bounds("throughput/bucketing_gain", trial.bucketing.gain.ci95)
    found["quality/accuracy"] = trial.accuracy
    found["quality/drop"] = trial.accuracy_drop
    found["quality/examples"] = trial.accuracy_examples
    found |= _bounds("quality/accuracy", trial.accuracy_ci95) | _bounds("quality/drop", trial.accuracy_drop_ci95)
    found["cost/per_million"] = trial.cost_per_million
    found["cost/size_mb"] = None if trial.size_bytes is None else trial.size_bytes / 1e6
    if trial.size_compressed_bytes is not None:
        found["cost/size_compressed_mb"] = trial.size_compressed_bytes / 1e6
    found["cost/peak_memory_mb"] = None if trial.peak_memory_bytes is None else trial.peak_memory_bytes / 1e6
    found["cost/device_memory_mb"] = None if trial.device_memory_bytes is None else trial.device_memory_bytes / 1e6
    found["cost/energy_j"] = trial.energy_j
    found["cost/parameters"] = trial.parameters
    found["cost/flops"] = trial.flops
    found |= {f"violation/{verdict.constraint.metric}": verdict.violation for verdict in trial.verdicts}
    found |= {f"stage/{name}_s": seconds for name, seconds in trial.stage_seconds.items()}
    found |= {f"cost/training_{name}_s": seconds for name, seconds in trial.training_seconds.items()}
    return {_key(name): float(value) for name, value in found.items() if value is not None}


def params_of(candidate: Candidate) -> dict[str, str]:
    """Return the candidate flattened: ``quantization.scheme``, ``pruning.amount``, ``runtime.threads``, …"""
    flat: dict[str, str] = {}
    for name, value in candidate.to_json().items():
        if isinstance(value, dict):
            flat |= {_key(f"{name}.{knob}"): str(item) for knob, item in value.items()}
        else:
            flat[name] = str(value)
    return flat


def tags_of(trial: TrialResult, search_id: str) -> dict[str, str]:
    """Return every facet that runs are filtered by, the trial itself as ``paretune.trial``: ``search/number``."""
    candidate = trial.candidate
    facets: dict[str, Any] = {
        "search": search_id, "kind": "trial", "trial": f"{search_id}/{trial.number}", "number": trial.number,
        "outcome": trial.outcome, "source": trial.source,
        "reason": trial.reason, "gate": trial.gate, "failure_kind": trial.failure_kind,
        "feasible": str(trial.feasible).lower(), "pareto": str(trial.pareto).lower(), "verdict": trial.verdict,
        "clean": None if trial.latency_ms is None else str(trial.latency_ms.clean).lower(),
        "backend": candidate.backend, "scheme": candidate.quantization.scheme, "structure": candidate.pruning.structure,
        "target": candidate.target, "batch_size": candidate.batch_size, "candidate": candidate.hash,
        "answered_by": trial.answered_by, "bundle": trial.bundle,
    }  # fmt: skip
    facets |= {f"verdict.{verdict.constraint.metric}": verdict.status for verdict in trial.verdicts}
    tags = {f"paretune.{name}": clipped(str(value)) for name, value in facets.items() if value is not None}
    return tags | {"mlflow.note.content": clipped(note_of(trial, search_id))}


def note_of(trial: TrialResult, search_id: str) -> str:
    """Say in Markdown what the trial is, how it ended and why, and how to run it again."""
    candidate = trial.candidate
    knobs = all_knobs(candidate)
    lines = [f"**{trial.label}**: {ending_of(trial)}" + (f" at gate `{trial.gate}`" if trial.gate else "") + "."]
    if trial.pareto:
        lines.append("On the front: no other feasible trial has both a higher accuracy and a better objective.")
    elif trial.feasible:
        lines.append("It keeps every limit, and another trial that does is at least as good in accuracy and objective.")
    if reason := why_not(trial):
        lines.append(f"Why: {reason}")
    if trial.latency_ms is not None:
        spread = show_interval("latency_ms", trial.latency_ms.ci95)
        lines.append(f"Latency p50 {show_ms(trial.latency_ms.p50)}, p95 {show_ms(trial.latency_ms.p95)} "
                     f"(95 % of the searched percentile: {spread}), {show_rate(trial.throughput_per_s)}.")  # fmt: skip
        if not trial.latency_ms.clean:
            lines.append("Other programs used the processor all the while, so this latency is not judged.")
    if trial.bucketing is not None:
        lines.append(f"Batches from buckets: {show_bucketing(trial.bucketing)}.")
    if trial.server is not None:
        lines.append(served_note(trial.server))
    if trial.speedup is not None:
        lines.append(f"{show_speedup(trial.speedup.value, trial.speedup.ci95)} as fast as eager fp32, timed in turn.")
    if trial.accuracy is not None:
        drop = show_drop(trial.accuracy_drop, is_share(trial))
        lines.append(f"Accuracy {show_score(trial.accuracy)}, drop {drop}, size {show_bytes(trial.size_bytes)}.")
    if knobs:
        lines.append("Knobs: " + ", ".join(f"`{name}={value}`" for name, value in knobs.items()))
    if trial.answered_by:
        lines.append(f"Not run again: trial {trial.answered_by} had measured the same on this target.")
    if trial.cached_stages:
        lines.append(f"Reused from the cache: {', '.join(trial.cached_stages)}.")
    lines.append(f"Run it again: `{trial.reproduce or f'paretune reproduce {search_id} {trial.number}'}`")
    lines.append(f"Why it is as fast as it is: `paretune explain {search_id} {trial.number}`")
    if trial.feasible:
        lines.append(f"Promote it: `paretune promote {search_id} --trial {trial.number} --as NAME@champion`")
    return "\n\n".join(lines)


def result_metrics(result: SearchResult) -> dict[str, float]:
    """Return the numbers of the search as a whole."""
    found: dict[str, float | int | None] = {
        "search/speedup": result.speedup, "search/speedup_over_float": result.speedup_over_float,
        **_bounds("search/speedup", result.speedup_ci95),
        **_bounds("search/speedup_over_float", result.speedup_over_float_ci95),
        "search/confidence": result.confidence, "search/polluted": result.polluted,
        "search/never_clean": result.never_clean, "search/front": len(result.front),
        "search/elapsed_s": result.elapsed_s, "search/overhead_s": result.overhead.seconds,
    }  # fmt: skip
    found |= {f"trials/{name}": count for name, count in result.trials.to_json().items()}
    for name, trial in (("best", result.best), ("baseline", result.baseline), ("best_float", result.best_float)):
        if trial is not None:
            found |= {
                f"{name}/latency_{result.percentile}_ms": trial.latency_at(result.percentile),
                f"{name}/server_{result.percentile}_ms": None if trial.server is None else trial.server.value,
                f"{name}/server_rate_per_s": None if trial.server is None else trial.server.sustained_per_s,
                f"{name}/throughput_per_s": trial.throughput_per_s, f"{name}/cost_per_million": trial.cost_per_million,
                f"{name}/accuracy": trial.accuracy,
                f"{name}/drop": trial.accuracy_drop, f"{name}/size_mb": trial.size_bytes and trial.size_bytes / 1e6,
            }  # fmt: skip
    return {name: float(value) for name, value in found.items() if value is not None}


def evidence_of(trial: TrialResult, result: SearchResult) -> dict[str, str]:
    """Return the facts that travel with a model of the front, as tags."""
    latency = trial.latency_ms
    facts: dict[str, Any] = {
        "search": result.search, "trial": f"{result.search}/{trial.number}", "label": trial.label,
        "target": trial.candidate.target, "backend": trial.candidate.backend, "candidate": trial.candidate.canonical,
        f"latency_{result.percentile}_ms": trial.latency_at(result.percentile),
        "latency_ci95_ms": latency and json.dumps(latency.ci95), "throughput_per_s": trial.throughput_per_s,
        "accuracy": trial.accuracy, "accuracy_drop": trial.accuracy_drop, "scored_by": result.scored_by,
        "accuracy_examples": trial.accuracy_examples, "size_bytes": trial.size_bytes, "confidence": result.confidence,
    }  # fmt: skip
    for constraint in result.constraints:
        if (verdict := verdict_for(trial, constraint)) is not None:
            facts[f"verdict.{constraint.metric}"] = verdict.status
    best = result.best is not None and trial.number == result.best.number
    facts |= {"pareto": str(trial.pareto).lower(), "best": str(best).lower()}
    return {f"paretune.{name}": clipped(str(value)) for name, value in facts.items() if value is not None}


def trial_rows(trials: Sequence[TrialResult]) -> list[dict[str, Any]]:
    """Return every trial as one row: number, label, parameters, ending and metrics."""
    return [
        {"number": trial.number, "label": trial.label, **params_of(trial.candidate), "outcome": trial.outcome,
         "feasible": trial.feasible, "verdict": trial.verdict, "pareto": trial.pareto, "gate": trial.gate,
         "failure_kind": trial.failure_kind, "reason": trial.reason, **metrics_of(trial)}
        for trial in trials
    ]  # fmt: skip


def trials_csv(trials: Sequence[TrialResult]) -> str:
    """Return every trial as one row of a table."""
    rows = trial_rows(trials)
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["number"]
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def clipped(text: str) -> str:
    """Shorten a text to what an MLflow tag holds."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _bounds(name: str, interval: tuple[float, float] | None, unit: str = "") -> dict[str, float | int | None]:
    separator = "_" if "/" in name else "/"
    low, high = interval or (None, None)
    return {f"{name}{separator}ci95_low{unit}": low, f"{name}{separator}ci95_high{unit}": high}


def _key(name: str) -> str:
    """Return a name that MLflow accepts as a key: third parties name their knobs and stages as they like."""
    return _NOT_IN_KEYS.sub("_", name)[:200]
