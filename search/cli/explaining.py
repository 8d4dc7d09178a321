"""The command ``explain``, and how an explanation reads: values in, rich renderables out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from search.cli import options
from search.cli.output import Reply

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from evaluators.outcome import Diagnosis
    from search.explain import Explanation
    from search.spec import SearchSpec

_OPERATORS_SHOWN = 8


def explain(
    search: options.Search,
    trial: options.Trial,
    json: options.Json = False,
    home: options.Home = options.HOME,
    config: options.HomeConfig = None,
) -> Reply:
    """Explain one trial: how it was judged, what really ran, and why it is no faster than its float twin."""
    from search import api
    from search.explain import explain as explained
    from search.fleet import known_targets

    state = api.status(search, options.existing(home))
    trials = api.trials(search, home)
    names = [each.candidate.target for each in trials if each.number == trial]
    found = explained(state.result, state.spec, trials, trial, next(iter(known_targets(names, home)), None))
    return Reply(found.to_json(), lambda: view(found, state.spec))


def view(found: Explanation, spec: SearchSpec) -> RenderableType:
    """What is known of a trial, and the comparison with its twin last."""
    from rich.console import Group
    from rich.text import Text

    rows = {**_identity(found), **_judgement(found), **_time(found, spec), **_size(found), **_executed(found)}
    parts: list[RenderableType] = [_facts(rows)]
    if found.diagnosis is not None and found.diagnosis.operators:
        parts += ["", _operators(found.diagnosis)]
    return Group(*parts, "", *(Text(line) for line in _comparison(found, spec)))


def _identity(found: Explanation) -> dict[str, str]:
    from search.wording import ending_of, knobs_of

    trial = found.trial
    parts = (trial.candidate.quantization, trial.candidate.pruning, trial.candidate.runtime)
    knobs = ", ".join(text for part in parts if (text := knobs_of(part)))
    again = f"{trial.source}, answered by trial {trial.answered_by}" if trial.answered_by else trial.source
    return {
        "trial": f"{trial.number}: {trial.label} ({again})",
        **({"settings": knobs} if knobs else {}),
        "ended": ending_of(trial),
    }


def _judgement(found: Explanation) -> dict[str, str]:
    trial = found.trial
    rows = {"limits": "\n".join(found.verdicts)} if found.verdicts else {}
    if trial.outcome == "failed" and trial.reason:
        rows["reason"] = trial.reason
    if found.relaxed:
        rows["would pass with"] = ", ".join(found.relaxed)
    if trial.outcome in ("failed", "rejected"):
        rows["run it again"] = found.reproduce
    return rows


def _time(found: Explanation, spec: SearchSpec) -> dict[str, str]:
    from search.units import show_ms
    from search.wording import show_interval, show_seconds

    trial = found.trial
    rows = {}
    if trial.stage_seconds:
        total = sum(trial.stage_seconds.values())
        longest = sorted(trial.stage_seconds.items(), key=lambda item: -item[1])
        stages = ", ".join(f"{name} {show_seconds(seconds)}" for name, seconds in longest if seconds >= 0.05)
        cached = f"; cached: {', '.join(trial.cached_stages)}" if trial.cached_stages else ""
        rows["time"] = f"{show_seconds(total)}: {stages}{cached}" if stages else show_seconds(total)
    if (latency := trial.latency_ms) is not None:
        spread = show_interval("latency", latency.ci95)
        rows["latency"] = f"{spec.percentile} {show_ms(trial.latency_at(spec.percentile))} ({spread})"
    if found.batch_utilization is not None:
        size = trial.candidate.batch_size
        rows["batch"] = f"{found.batch_utilization:.3g}× the throughput of batch size 1, {size}× at most"
    return rows


def _size(found: Explanation) -> dict[str, str]:
    from search.units import show_bytes

    trial = found.trial
    if trial.size_bytes is None:
        return {}
    said = f"{show_bytes(trial.size_bytes)} on disk"
    if trial.size_compressed_bytes is not None:
        said += f", {show_bytes(trial.size_compressed_bytes)} compressed"
    before = found.twin.size_compressed_bytes if found.twin is not None else None
    if trial.size_compressed_bytes is not None and before:
        said += f": {trial.size_compressed_bytes / before:.2f}× of its {found.twin_kind} twin's"
    return {"size": said}


def _executed(found: Explanation) -> dict[str, str]:
    diagnosis = found.diagnosis
    if diagnosis is None:
        return {"executed": "not known: the trial was not diagnosed"} if found.trial.latency_ms is not None else {}
    rows = {}
    if diagnosis.quantized_share is not None:
        rows["quantized"] = f"{diagnosis.quantized_share:.0%} of the operators that compute"
    if diagnosis.operators:
        rows["fallbacks"] = f"{diagnosis.fallbacks} operators run in a wider precision than asked for"
        rows["conversions"] = f"{diagnosis.reorders} of layout or precision between operators"
    if diagnosis.instruction_set is not None:
        rows["instructions"] = diagnosis.instruction_set
    if diagnosis.notes:
        rows["note"] = "\n".join(diagnosis.notes)
    return rows


def _operators(diagnosis: Diagnosis) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("operators", "precision", "kernel", "count", "of a call"):
        table.add_column(heading, no_wrap=heading != "kernel", justify="right" if heading == "of a call" else "left")
    for item in diagnosis.operators[:_OPERATORS_SHOWN]:
        share = "–" if item.time_share is None else f"{item.time_share:.0%}"
        table.add_row(item.kind, item.precision or "–", item.kernel, str(item.count), share)
    return table


def _comparison(found: Explanation, spec: SearchSpec) -> list[str]:
    """Say how the trial compares with its twin, and why it is no faster."""
    from search.wording import show_speedup

    trial = found.trial
    if found.twin is None or found.speedup_over_twin is None:
        return [_no_twin(found)] if trial.latency_ms is not None else []
    exact = f", which differs in {', '.join(found.twin_differs)} too" if found.twin_differs else ""
    twin = f"its {found.twin_kind} twin, trial {found.twin.number}{exact}"
    ratio = show_speedup(found.speedup_over_twin.value, found.speedup_over_twin.ci95)
    how = "timed in turn" if found.timed_in_turn else f"at {spec.percentile}, timed one after the other"
    if found.compared == "faster":
        return [f"Faster: {ratio} the speed of {twin} ({how})."]
    word = "Slower" if found.compared == "slower" else "Not surely faster"
    lines = [f"{word}: {ratio} the speed of {twin} ({how})."]
    if found.why is not None:
        looked_at = f" (looked at: {', '.join(found.looked_at)})" if found.looked_at else ""
        lines.append(f"Why: {found.why}{looked_at}.")
    return lines


def _no_twin(found: Explanation) -> str:
    candidate = found.trial.candidate
    if candidate.is_unmodified_float:
        return "It is the float model, unpruned: there is no twin to compare it with."
    twin = "float" if candidate.quantization.scheme != "fp32" else "unpruned float"
    return f"No {twin} trial of {candidate.backend} at batch size {candidate.batch_size} was timed to compare it with."


def _facts(values: dict[str, str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in values.items():
        table.add_row(Text(name, "bold"), Text(value))
    return table
