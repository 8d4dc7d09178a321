"""What the comparison found: the verdict on it, and its report in Markdown."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.result import SearchResult, TrialResult

AS_FAST = 0.99
"""The search's best may be 1 % slower than the fastest contender: the comparison calls no smaller difference one."""

RIVALS = 2
"""So many of the fastest contenders are timed once more, in turn with the search's best."""

Row = dict[str, Any]


def rivals(rows: Mapping[str, Row], baseline: str, ours: str, max_drop: float) -> list[str]:
    """Return the names of the search's best, the fastest contenders within the accuracy limit, and the baseline.

    Rows get their ``drop`` and ``speedup``.
    """
    float_row = rows[baseline]
    for row in rows.values():
        if "accuracy" in row and "accuracy" in float_row:
            row["drop"] = round(float_row["accuracy"] - row["accuracy"], 9)
        if "p50_ms" in row and "p50_ms" in float_row:
            row["speedup"] = float_row["p50_ms"] / row["p50_ms"]
    timed = [name for name, row in rows.items() if "p50_ms" in row and row.get("drop", max_drop + 1) <= max_drop]
    fastest = sorted((name for name in timed if name != ours), key=lambda name: float(rows[name]["p50_ms"]))
    return list(dict.fromkeys([*(name for name in timed if name == ours), *fastest[:RIVALS], baseline]))


def judge(
    rows: Mapping[str, Row], duel: Mapping[str, Any], baseline: str, ours: str, max_drop: float, goal: float
) -> dict[str, Any]:
    """Compare ``ours`` with the fastest other of ``duel``, and with the baseline. Above 1 means that ours is faster."""
    if ours not in duel.get("p50_ms", {}):
        return {"holds": False, "why": duel.get("error") or _why_not(rows.get(ours))}
    fastest = min((name for name in duel["p50_ms"] if name != ours), key=lambda name: float(duel["p50_ms"][name]))
    ratio, interval = _faster(duel, fastest, ours)
    speedup, speedup_interval = _faster(duel, baseline, ours)
    return {
        "fastest_by_hand": fastest, "ratio": ratio, "interval": interval, "as_fast": ratio >= AS_FAST,
        "ratio_p95": duel["p95_ms"][fastest] / duel["p95_ms"][ours], "speedup": speedup,
        "speedup_interval": speedup_interval, "drop": rows[ours]["drop"], "goal": goal,
        "reaches_goal": speedup >= goal, "max_accuracy_drop": max_drop, "holds": ratio >= AS_FAST and speedup >= goal,
    }  # fmt: skip


def _faster(duel: Mapping[str, Any], slow: str, fast: str) -> tuple[float, tuple[float, float]]:
    """Return how many times faster ``fast`` is over the rounds in which both were timed."""
    from evaluators.statistics import compare_rounds

    pairs = zip(duel["log_medians"][slow], duel["log_medians"][fast], strict=False)
    return compare_rounds([a - b for a, b in pairs if a is not None and b is not None])


def _why_not(row: Row | None) -> str:
    if row is None:
        return "no feasible model was found"
    if "error" in row or "drop" not in row:
        return f"the search's best was not timed: {row.get('error')}"
    return f"by the script's own count it loses {row['drop']:.4f} of accuracy"


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


def machine_line(facts: Mapping[str, Any]) -> str:
    """Say in a line what was measured on, and how busy it was before and, now, after."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return (
        f"{facts['target']}, {facts['cores']} cores, {facts['memory_gib']} GiB, {facts['system']}; load average "
        f"{facts['load_average_before'][0]:.1f} before, {os.getloadavg()[0]:.1f} after. {versions}."
    )


def trial_line(trial: TrialResult) -> str:
    """A trial as a row of the table of trials."""
    latency = trial.latency_ms.p50 if trial.latency_ms else None
    knobs = {**trial.candidate.quantization.knobs, **trial.candidate.pruning.knobs, **trial.candidate.runtime.knobs}
    pruning = trial.candidate.pruning.to_json()
    knobs |= {name: pruning[name] for name in ("recovery", "recovery_steps") if pruning.get(name)}
    label = " ".join([trial.label, *(f"{name}={value}" for name, value in knobs.items())])
    reason = " ".join((trial.reason or "").replace("|", "/").split())[:80]
    ending = f"{trial.outcome}: {reason}" if reason else trial.outcome
    return _cells([str(trial.number), trial.source, label, ending, _number(latency, ".4f"),
                   _number(trial.accuracy, ".4f")])  # fmt: skip


def markdown(found: Mapping[str, Any], ours: str) -> str:
    """Write the report: heading, machine, table, what was compared, and the trials of the search."""
    facts = found["machine"]
    count = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    return "\n".join([
        f"## {facts['date']}: batch {found['batch_size']}, {count}, {facts['processor']}", "",
        f"`{found['command']}`", "",
        machine_line(facts), "",
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
    low, high = verdict["interval"]
    least, most = verdict["speedup_interval"]
    rounds = len(found["duel"]["log_medians"][verdict["fastest_by_hand"]])
    limit = f"an accuracy drop within {verdict['max_accuracy_drop']:g}"
    return [
        spent,
        f"- In turn, block by block, over {rounds} rounds of fresh processes: the search's best against "
        f"*{verdict['fastest_by_hand']}*, the fastest contender with {limit}: **{verdict['ratio']:.3f}× as fast** at "
        f"p50 (95 %: {low:.3f} to {high:.3f}; at p95 {verdict['ratio_p95']:.3f}×). "
        f"At least {AS_FAST:g}× asked: {_yes(verdict['as_fast'])}.",
        f"- Against eager fp32 in the same rounds: **{verdict['speedup']:.2f}× as fast** (95 %: {least:.2f} to "
        f"{most:.2f}) with a drop of {verdict['drop']:+.4f}. At least {verdict['goal']:g}× asked: "
        f"{_yes(verdict['reaches_goal'])}.",
        f"- Best candidate: {searched['best_line'].strip('| ')}.",
        f"- **{'Holds' if verdict['holds'] else 'Does not hold'}.**",
    ]


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _number(value: float | None, digits: str) -> str:
    return "–" if value is None else format(value, digits)


def _cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
