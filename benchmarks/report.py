"""What the comparison found: the verdict on it, and its report in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.result import SearchResult, TrialResult

AS_FAST = 0.97
"""The search's best may be 3 % slower than the fastest contender: two timings of one model differ by as much."""

Row = dict[str, Any]


def judge(rows: Mapping[str, Row], baseline: str, ours: str, max_drop: float, goal: float) -> dict[str, Any]:
    """Compare the row ``ours`` with the fastest other one within the accuracy limit, and with the baseline.

    Rows get their ``drop`` and ``speedup``. ``ratio`` above 1 means that ours is faster.
    """
    float_row = rows[baseline]
    if "p50_ms" not in float_row:
        return {"holds": False, "why": f"{baseline} was not measured: {float_row.get('error')}"}
    for row in rows.values():
        if "accuracy" in row:
            row["drop"] = round(float_row["accuracy"] - row["accuracy"], 9)
        if "p50_ms" in row:
            row["speedup"] = float_row["p50_ms"] / row["p50_ms"]
    timed = {name: row for name, row in rows.items() if "p50_ms" in row and row["drop"] <= max_drop}
    if ours not in timed:
        return {"holds": False, "why": f"the search's best is not to be compared: {_why_not(rows.get(ours))}"}
    best = timed.pop(ours)
    fastest = min(timed, key=lambda name: float(timed[name]["p50_ms"]))
    other = timed[fastest]
    pairs = [theirs["p50_ms"] / own["p50_ms"] for theirs, own in zip(other["rounds"], best["rounds"], strict=True)
             if "error" not in theirs and "error" not in own]  # fmt: skip
    ratio = other["p50_ms"] / best["p50_ms"]
    return {
        "fastest_by_hand": fastest, "ratio": ratio, "ratio_p95": other["p95_ms"] / best["p95_ms"],
        "ratio_by_round": pairs, "as_fast": ratio >= AS_FAST, "speedup": best["speedup"], "drop": best["drop"],
        "goal": goal, "reaches_goal": best["speedup"] >= goal, "max_accuracy_drop": max_drop,
        "holds": ratio >= AS_FAST and best["speedup"] >= goal,
    }  # fmt: skip


def _why_not(row: Row | None) -> str:
    if row is None:
        return "no feasible model was found"
    return row.get("error") or f"by the script's own count it loses {row['drop']:.4f} of accuracy"


def search_facts(result: SearchResult) -> dict[str, Any]:
    """Return what the search says of itself."""
    best = result.best
    return {
        "status": result.status, "trials": result.trials.model_dump(), "elapsed_s": result.elapsed_s,
        "overhead_share": result.overhead.share, "best": best and best.to_json(), "speedup": result.speedup,
        "best_line": best and trial_line(best), "notes": list(result.notes),
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """Return the facts about this machine that the times depend on."""
    from evaluators.target import environment, probe_target

    target = probe_target()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "processor": target.processor,
        "target": target.name, "features": list(target.features), "cores": target.cores,
        "memory_gib": round(target.memory_bytes / 2**30, 1), "system": platform.platform(),
        "load_average_before": os.getloadavg(),
        "versions": environment("onnxruntime", "openvino", "nncf", "torchao", "onnx", "optuna"),
    }  # fmt: skip


def trial_line(trial: TrialResult) -> str:
    """A trial as a row of the table of trials."""
    latency = trial.latency_ms.p50 if trial.latency_ms else None
    knobs = {**trial.candidate.quantization.knobs, **trial.candidate.pruning.knobs, **trial.candidate.runtime.knobs}
    if trial.candidate.pruning.recovery_steps:
        knobs["recovery_steps"] = trial.candidate.pruning.recovery_steps
    label = " ".join([trial.label, *(f"{name}={value}" for name, value in knobs.items())])
    reason = " ".join((trial.reason or "").replace("|", "/").split())[:80]
    ending = f"{trial.outcome}: {reason}" if reason else trial.outcome
    return _cells([str(trial.number), trial.source, label, ending, _number(latency, ".4f"),
                   _number(trial.accuracy, ".4f")])  # fmt: skip


def markdown(found: Mapping[str, Any], ours: str) -> str:
    """Write the report: heading, machine, table, what was compared, and the trials of the search."""
    facts = found["machine"]
    before, after = (facts[f"load_average_{when}"][0] for when in ("before", "after"))
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    count = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    return "\n".join([
        f"## {facts['date']}: batch {found['batch_size']}, {count}, {facts['processor']}", "",
        f"`{found['command']}`", "",
        f"{facts['target']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}; load average "
        f"{before:.1f} before, {after:.1f} after. {versions}.", "",
        *_table(found["rows"], found["search"], ours), "",
        f"Medians of {found['rounds']} rounds in which all were timed in turn, each in a fresh process; a latency is "
        "that of one call with the whole batch.", "",
        *_conclusion(found), "",
        "<details><summary>The trials of the search, in order</summary>", "",
        _cells(["#", "source", "candidate", "outcome", "p50 ms", "accuracy"]), _cells(["---"] * 6),
        *found["trial_lines"], "", "</details>", "",
    ])  # fmt: skip


def _table(rows: Mapping[str, Row], searched: Mapping[str, Any], ours: str) -> list[str]:
    lines = [_cells(["contender", "accuracy", "drop", "p50 ms", "p95 ms", "speed-up"]), _cells(["---"] * 6)]
    for name, row in sorted(rows.items(), key=lambda item: float(item[1].get("p50_ms", "inf"))):
        title = f"**search: {searched['best']['label']}, trial {searched['best']['number']}**" if name == ours else name
        if "p50_ms" not in row:
            title += f" (not measured: {row.get('error', '')})".replace("|", "/")
        columns = {"accuracy": ".4f", "drop": "+.4f", "p50_ms": ".4f", "p95_ms": ".4f", "speedup": ".2f"}
        lines.append(_cells([title, *(_number(row.get(key), digits) for key, digits in columns.items())]))
    return lines


def _conclusion(found: Mapping[str, Any]) -> Sequence[str]:
    verdict, searched = found["verdict"], found["search"]
    trials = searched["trials"]
    spent = (
        f"- The search: {trials['total']} trials ({trials['measured']} measured, {trials['rejected']} rejected, "
        f"{trials['failed']} failed) in {searched['elapsed_s']:.0f} s, overhead {searched['overhead_share']:.1%}."
    )
    if "ratio" not in verdict:
        return [spent, f"- **Does not hold**: {verdict['why']}."]
    spread = ", ".join(f"{ratio:.2f}" for ratio in verdict["ratio_by_round"])
    limit = f"an accuracy drop within {verdict['max_accuracy_drop']:g}"
    return [
        spent,
        f"- Compared at p50: the search's best against *{verdict['fastest_by_hand']}*, the fastest contender with "
        f"{limit}: **{verdict['ratio']:.3f}× as fast** (round by round {spread}; at p95 {verdict['ratio_p95']:.3f}×). "
        f"At least {AS_FAST:g}× asked: {_yes(verdict['as_fast'])}.",
        f"- Against eager fp32: **{verdict['speedup']:.2f}× as fast** with a drop of {verdict['drop']:+.4f}. "
        f"At least {verdict['goal']:g}× asked: {_yes(verdict['reaches_goal'])}.",
        f"- Best candidate: {searched['best_line'].strip('| ')}.",
        f"- **{'Holds' if verdict['holds'] else 'Does not hold'}.**",
    ]


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _number(value: float | None, digits: str) -> str:
    return "–" if value is None else format(value, digits)


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
