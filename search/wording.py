"""How results are put into words and numbers: the same in the terminal, the report, the plots and MLflow."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.candidate import Candidate, Pruning, Quantization, Runtime
from evaluators.outcome import Bucketing, Constraint, Interval, ServerEvidence, Verdict, describe
from search.home import home_folder
from search.result import SearchResult, TrialResult
from search.units import show_bytes, show_ms

if TYPE_CHECKING:
    from evaluators.space import Exclusion

NOTHING = "–"


def show_score(value: float | None, digits: int = 2) -> str:
    """Write an accuracy: in percent where it is a share, as it is where the metric has another scale."""
    if value is None:
        return NOTHING
    return f"{value * 100:.{digits}f} %" if 0 <= value <= 1 else f"{value:.4g}"


def show_drop(value: float | None, share: bool = True) -> str:
    """Write an accuracy drop: in percentage points (pp) where it is the difference of two shares."""
    if value is None:
        return NOTHING
    value = 0.0 if abs(value) < 5e-5 else value
    text = f"{value * 100:.2f} pp" if share else f"{value:.4g}"
    return text.replace("-", "\N{MINUS SIGN}")


def is_share(trial: TrialResult | None) -> bool:
    """Whether the trial's accuracy is a share of examples, so that percent and percentage points make sense."""
    return trial is None or trial.accuracy is None or 0 <= trial.accuracy <= 1


def in_shares(result: SearchResult) -> bool:
    """Whether the search's accuracies are shares of examples."""
    return all(is_share(trial) for trial in (result.baseline, result.best_float, result.best, *result.nearest))


def show_rate(per_second: float | None) -> str:
    """Write a throughput in examples per second."""
    if per_second is None:
        return NOTHING
    return f"{per_second:,.0f}/s" if per_second >= 100 else f"{per_second:.3g}/s"


def show_cost(per_million: float | None) -> str:
    """Write what a million inferences cost, in the currency of the prices: ``0.0123``, ``4.56``."""
    return NOTHING if per_million is None else f"{per_million:,.3g}" if per_million < 1000 else f"{per_million:,.0f}"


def show_seconds(seconds: float | None) -> str:
    """Write a duration: ``0.4 s``, ``3 min 32 s``, ``2 h 05 min``."""
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def show_joules(energy_j: float | None) -> str:
    """Write an energy in joules or millijoules."""
    if energy_j is None:
        return NOTHING
    return f"{energy_j:.3g} J" if energy_j >= 0.1 else f"{energy_j * 1e3:.3g} mJ"


def show_metric(metric: str, value: float | None, share: bool = True) -> str:
    """Write a value of the metric with this JSON name: ``latency_p95_ms``, ``accuracy_drop``, ``size_bytes``, …"""
    if metric.startswith(("latency", "server")):
        return show_ms(value)
    if metric == "size_bytes":
        return show_bytes(value)
    return show_drop(value, share) if metric == "accuracy_drop" else show_score(value)


def show_interval(metric: str, interval: Interval | None, share: bool = True) -> str:
    """Write an interval, or nothing where there is none."""
    if interval is None:
        return ""
    low, high = (show_metric(metric, bound, share) for bound in interval)
    number, _, unit = low.partition(" ")
    return f"{number if unit and high.endswith(' ' + unit) else low} to {high}"


def name_of(metric: str) -> str:
    """Write a metric's JSON name for people: ``latency_p95_ms`` is ``latency p95``."""
    if metric == "size_bytes":
        return "size"
    return metric.removesuffix("_ms").replace("_", " ")


def show_limit(constraint: Constraint, share: bool = True) -> str:
    """Write a constraint: ``latency p95 ≤ 5 ms``."""
    sign = "≤" if constraint.max is not None else "≥"
    return f"{name_of(constraint.metric)} {sign} {show_metric(constraint.metric, constraint.limit, share)}"


def show_relaxed(metric: str, value: float, share: bool = True) -> str:
    """Write what a limit would have to be: ``latency p95 up to 6.2 ms``."""
    direction = "down to" if metric == "accuracy" else "up to"
    return f"{name_of(metric)} {direction} {show_metric(metric, value, share)}"


def show_speedup(ratio: float | None, interval: Interval | None = None) -> str:
    """Write a speed-up, with its 95 % interval where it has one: ``5.8× (5.6 to 6.1×)``."""
    if ratio is None:
        return NOTHING
    shown = f"{ratio:.3g}×" if ratio < 100 else f"{ratio:.0f}×"
    return f"{shown} ({show_ratios(interval)})" if interval else shown


def show_ratios(interval: Interval) -> str:
    """Write an interval of ratios: ``5.6 to 6.1×``."""
    low, high = (show_speedup(ratio) for ratio in interval)
    return f"{low.removesuffix('×')} to {high}"


def show_confidence(confidence: float) -> str:
    """Write how sure verdicts are: ``95 % confidence``."""
    return f"{confidence * 100:.4g} % confidence"


def show_verdict(verdict: Verdict, confidence: float, share: bool = True) -> str:
    """Say how a limit was judged, how surely, and by what: ``met at 95 % confidence with 4.2 ms, at most 4.4 ms``."""
    word = {"pass": "met", "fail": "missed"}.get(verdict.status, verdict.status)
    metric, value = verdict.constraint.metric, show_metric(verdict.constraint.metric, verdict.value, share)
    if verdict.interval is None:
        return f"{word} with {value}" + ("" if metric == "size_bytes" else ", of which no interval is known")
    found = f"{word} at {show_confidence(confidence)} with {value}"
    if verdict.status != "pass":
        return f"{found} ({show_interval(metric, verdict.interval, share)})"
    side, bound = ("at most", 1) if verdict.constraint.max is not None else ("at least", 0)
    return f"{found}, {side} {show_metric(metric, verdict.interval[bound], share)}"


def show_doubt(trial: TrialResult) -> str:
    """Say what of an undecided trial is undecided: ``undecided: 0.80 pp drop (0.20 to 1.30 pp), limit 1.00 pp``."""
    found = [_doubt(trial, verdict) for verdict in trial.verdicts if verdict.status == "undecided"]
    return f"undecided: {'; '.join(found)}"


def _doubt(trial: TrialResult, verdict: Verdict) -> str:
    metric, share = verdict.constraint.metric, is_share(trial)
    words = {"accuracy_drop": "drop", "accuracy": "accuracy"}
    what = words.get(metric) or name_of(metric).replace("latency", "at").replace("server", "of requests at")
    spread = show_interval(metric, verdict.interval, share)
    timed = {"latency": trial.latency_ms, "server": trial.server}.get(metric.partition("_")[0])
    if timed is not None and not timed.clean:
        spread = "measured beside other programs"
    shown = f"{show_metric(metric, verdict.value, share)} {what}" + (f" ({spread})" if spread else "")
    return f"{shown}, limit {show_metric(metric, verdict.constraint.limit, share)}"


def why_not(trial: TrialResult) -> str:
    """Say why a trial is not feasible, in one sentence; nothing where it is. Sure misses go before doubts."""
    missed = [describe(verdict) for verdict in trial.verdicts if verdict.status == "fail"]
    return show_doubt(trial) if trial.undecided else "; ".join(missed) or trial.reason or ""


def show_disturbed(result: SearchResult) -> str:
    """Say what other programs spoiled, or nothing where they did not."""
    if not result.polluted and not result.never_clean:
        return ""
    blocks, trials = (
        f"{result.polluted:,} block{_s(result.polluted)}",
        f"{result.never_clean} trial{_s(result.never_clean)}",
    )
    return f"measured beside other programs: {blocks} repeated, {trials} never clean"


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def pruning_of(candidate: Candidate) -> str:
    """Write a candidate's pruning: ``none`` or ``channel 0.50``."""
    pruning = candidate.pruning
    return pruning.structure if pruning.structure == "none" else f"{pruning.structure} {pruning.amount:.2f}"


def knobs_of(part: Quantization | Pruning | Runtime) -> str:
    """Write the knobs of a part of a candidate: ``preset=mixed, range=mean``."""
    return ", ".join(f"{name}={value}" for name, value in part.knobs.items())


def distinct_labels(trials: Iterable[TrialResult]) -> dict[int, str]:
    """Return a label for each trial, by number; those that share one are told apart by the knobs that differ."""
    alike: dict[str, list[TrialResult]] = {}
    for trial in trials:
        alike.setdefault(trial.label, []).append(trial)
    labels = {}
    for label, group in alike.items():
        knobs = {trial.number: all_knobs(trial.candidate) for trial in group}
        differing = {name for each in knobs.values() for name, value in each.items()
                     if any(other.get(name) != value for other in knobs.values())}  # fmt: skip
        for number, each in knobs.items():
            told = [f"{name}={value}" for name, value in each.items() if name in differing]
            labels[number] = " ".join([label, *told])
    return labels


def all_knobs(candidate: Candidate) -> dict[str, object]:
    """Return every knob of a candidate, and how a pruned model recovered as the candidate writes it down."""
    pruning = candidate.pruning.to_json()
    recovery = {name: pruning[name] for name in ("recovery", "recovery_steps") if pruning.get(name)}
    return {**candidate.quantization.knobs, **candidate.pruning.knobs, **recovery, **candidate.runtime.knobs}


def training_of(trial: TrialResult, stages: Sequence[str] = ("prune", "recover", "qat")) -> str:
    """Say what its training took when it was done: ``recover 12.3 s, answered from the cache; qat 8.1 s``."""
    parts = []
    for stage in stages:
        if (seconds := trial.training_seconds.get(stage)) is None:
            continue
        cached = ", answered from the cache" if stage in trial.cached_stages else ""
        parts.append(f"{stage} {show_seconds(seconds)}{cached}")
    return "; ".join(parts)


def ending_of(trial: TrialResult) -> str:
    """Say in a word how a trial ended: ``on the front``, ``undecided``, ``over a limit``, ``crashed``, …"""
    if trial.outcome == "failed":
        return (trial.failure_kind or "failed").replace("_", " ")
    if trial.outcome != "measured":
        return trial.outcome
    measured = "feasible" if trial.feasible else "undecided" if trial.undecided else "over a limit"
    return "on the front" if trial.pareto else measured


def verdict_for(trial: TrialResult | None, constraint: Constraint) -> Verdict | None:
    """Return the trial's verdict on a constraint, or None where it was not reached."""
    verdicts = trial.verdicts if trial else ()
    return next((verdict for verdict in verdicts if verdict.constraint == constraint), None)


def failures_by_kind(trials: Iterable[TrialResult]) -> dict[str, list[TrialResult]]:
    """Group the failed trials by their kind, the most frequent first."""
    groups: dict[str, list[TrialResult]] = {}
    for trial in trials:
        if trial.outcome == "failed":
            groups.setdefault(trial.failure_kind or "error", []).append(trial)
    return dict(sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])))


def headline(result: SearchResult) -> str:
    """Say in one sentence what the search found."""
    if result.best is None:
        tried = result.trials.total
        if not tried:
            return "No trial has finished yet." if result.status == "interrupted" else "No candidate could be tried."
        limits = " and ".join(show_limit(constraint, in_shares(result)) for constraint in result.constraints)
        found = f"None of {tried} trials meets {limits} at {show_confidence(result.confidence)}"
        found += " so far" if result.status == "interrupted" else ""
        unsure = result.trials.undecided
        return f"{found}; {unsure} {'is' if unsure == 1 else 'are'} undecided." if unsure else f"{found}."
    return ", ".join(_best_facts(result, result.best)) + "."


def command(result: SearchResult, verb: str, *arguments: str) -> str:
    """Write the command line that does ``verb`` to this search, ``--home`` included where it is not the default."""
    words = [_program(), verb, *arguments]
    if Path(result.home).resolve() != home_folder():
        words += ["--home", result.home]
    return shlex.join(words)


def _program() -> str:
    """Return how paretune is called here: by name where the shell finds it, else by the path it was started with."""
    if shutil.which("paretune") or Path(sys.argv[0]).name != "paretune":
        return "paretune"
    started = Path(sys.argv[0]).absolute()
    return str(started.relative_to(Path.cwd())) if started.is_relative_to(Path.cwd()) else str(started)


def show_bucketing(found: Bucketing) -> str:
    """Say what batches from buckets gain: ``1.6× (95 % 1.5 to 1.7×) the examples per second of …``."""
    edges = ", ".join(map(str, found.edges))
    filling = f"{found.padding_share:.0%} of positions are filling instead of {found.plain_padding_share:.0%}"
    gain = show_speedup(found.gain.value, found.gain.ci95)
    return f"{gain} the examples per second of batches as they come; {filling}; edges {edges}"


def show_serving(server: ServerEvidence) -> str:
    """Say how requests were served: ``2 instances, batches of up to 8, window 1 ms``."""
    instances = f"{server.instances} instance{_s(server.instances or 0)}"
    window = f"window {show_ms(server.window_ms)}" if server.window_ms else "no window"
    return f"{instances}, batches of up to {server.max_batch}, {window}"


def _served_facts(result: SearchResult, server: ServerEvidence) -> list[str]:
    """What the best of a server scenario does for its requests."""
    tested = show_rate(server.rate_per_s).removesuffix("/s")
    at = f"{show_ms(server.value)} at {server.percentile} of {tested} requests/s"
    if server.sustained_per_s is not None and result.objective in ("throughput", "cost"):
        rate = show_rate(server.sustained_per_s).removesuffix("/s")
        at = f"{rate} requests/s within {show_ms(server.budget_ms)} at {server.percentile}"
    return [f"{at} ({show_serving(server)})"]


def _best_facts(result: SearchResult, best: TrialResult) -> list[str]:
    latency = f"{show_ms(best.latency_at(result.percentile))} at {result.percentile}"
    batch = "" if best.candidate.batch_size == 1 else f" for a batch of {best.candidate.batch_size}"
    facts = [latency + batch] if best.server is None else _served_facts(result, best.server)
    if result.objective == "throughput" and best.server is None:
        facts = [f"{show_rate(best.throughput_per_s).removesuffix('/s')} examples/s with {latency}{batch}"]
    elif result.objective == "size":
        facts = [show_bytes(best.size_bytes), *facts]
    elif result.objective == "cost":
        facts = [f"{show_cost(best.cost_per_million)} for a million inferences", *facts]
    if len(result.targets) > 1:
        facts[0] = f"{facts[0]} on {best.candidate.target}"
    if result.speedup is not None:
        facts.append(_compared(result.speedup, result.speedup_ci95, "eager fp32"))
    if result.best_float is not None and result.best_float.number == best.number:
        facts.append("itself the fastest unmodified float model")
    elif result.speedup_over_float is not None and result.best_float is not None:
        name = result.best_float.candidate.backend
        other = f"the best unmodified float model ({name})"
        facts.append(_compared(result.speedup_over_float, result.speedup_over_float_ci95, other))
    if best.accuracy is not None:
        facts.append(f"accuracy {show_score(best.accuracy, 1)} ({_drop_fact(best)})")
    return facts


def _compared(ratio: float, interval: Interval | None, other: str) -> str:
    shown = show_speedup(ratio, interval)
    if interval is not None and interval[0] <= 1 <= interval[1]:
        return f"{shown} the speed of {other}, no sure difference"
    return f"{shown} faster than {other}" if ratio >= 1 else f"{shown} the speed of {other}"


def _drop_fact(best: TrialResult) -> str:
    interval, share = best.accuracy_drop_ci95, is_share(best)
    spread = "" if interval is None else f" ± {show_drop((interval[1] - interval[0]) / 2, share)}"
    number = show_drop(best.accuracy_drop, share)
    return f"drop {number.removesuffix(' pp') if spread.endswith(' pp') else number}{spread}"


def exclusion_notes(exclusions: Sequence[Exclusion], targets: Sequence[str]) -> list[str]:
    """Return what to say of what was left out: a sentence a reason, but one for all that these targets do not have."""
    hardware = [item.what for item in exclusions if any(target in item.why for target in targets)]
    by_reason: dict[str, list[str]] = {}
    for item in exclusions:
        if item.what not in hardware:
            by_reason.setdefault(item.why, []).append(item.what)
    notes = [f"left out: {', '.join(named)}: {why}" for why, named in by_reason.items()]
    if hardware:
        notes.append(f"left out, not for {', '.join(targets)}: {', '.join(hardware)} (paretune space says why)")
    return notes
