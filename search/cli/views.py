"""What people see of a machine, a workload, a space and the searches: values in, rich renderables out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.units import show_bytes
from search.wording import show_confidence, show_disturbed, show_doubt, show_limit, show_seconds

if TYPE_CHECKING:
    from evaluators.capabilities import BackendReport
    from evaluators.target import Target
    from search.api import CheckReport, DoctorReport, SpaceReport, StatusReport
    from search.spec import SearchSpec


def doctor(report: DoctorReport) -> RenderableType:
    """This machine's targets, the default one first, and the backends of each."""
    parts: list[RenderableType] = [
        facts_table(_target_facts(report.target, report.why)),
        "",
        _backends(report.backends),
    ]
    for other in report.targets:
        if not other.default:
            parts += [
                "",
                facts_table(_target_facts(other.target, "named with --target")),
                "",
                _backends(other.backends),
            ]
    for problem in report.problems:
        parts += ["", Text("problem: ", "bold red").append(problem, "default")]
    if report.versions:
        installed = ", ".join(f"{name} {version}" for name, version in sorted(report.versions.items()))
        parts += ["", Text(installed, "dim")]
    return Group(*parts)


def _target_facts(target: Target, why: str) -> dict[str, str]:
    accelerator = target.accelerator
    board = {
        "accelerator": f"{accelerator.name} ({accelerator.architecture})",
        "its memory": f"{accelerator.memory_bytes / 1e9:.1f} GB",
        "driver": accelerator.driver or "–",
    } if accelerator else {}  # fmt: skip
    return {
        "target": f"{target.name} ({why})" if why else target.name, **board, "processor": target.processor,
        "features": ", ".join(target.features) or "–", "cores": str(target.cores),
        "memory": f"{target.memory_bytes / 1e9:.1f} GB", "system": target.system, "fingerprint": target.fingerprint,
    }  # fmt: skip


def _backends(reports: Sequence[BackendReport]) -> Table:
    backends = plain_table("backend", "", "versions, or what to do; schemes")
    for backend in reports:
        mark = Text("usable", "green") if backend.usable else Text("no", "red")
        versions = ", ".join(f"{name} {version}" for name, version in sorted(backend.versions.items()))
        about = versions if backend.usable else backend.reason or ""
        backends.add_row(backend.name, mark, Text(f"{about}\n").append(", ".join(backend.schemes), "dim"))
    return backends


def check(report: CheckReport) -> RenderableType:
    """What is wrong with a workload, and what it is."""
    lines: list[RenderableType] = []
    for problem in report.problems:
        style = "bold red" if problem.level == "error" else "yellow"
        lines.append(Text(f"{problem.level}: ", style).append(problem.what, "default"))
        if problem.advice:
            lines.append(Text(f"  {problem.advice}"))
    if (profile := report.profile) is not None:
        lines.append(facts_table({
            "workload": profile.name,
            "model": f"{profile.parameters:,} parameters, {show_bytes(profile.size_bytes)}",
            "layers": ", ".join(f"{count} {name}" for name, count in sorted(profile.layers.items())),
            "float score": f"{profile.accuracy:.4f} ({profile.scored_by}, {profile.examples} examples)",
            "calibration": f"{profile.calibration_examples} examples",
            "train split": "given" if profile.has_train else "none",
            "export": profile.exportable or ("any batch size" if profile.dynamic_batch else "one batch size at a time"),
        }))  # fmt: skip
    verdict = Text("it can be searched", "green") if report.ok else Text("it cannot be searched", "bold red")
    return Group(*lines, verdict.append(f" (checked in {report.seconds:.1f} s)", "default"))


def space(report: SpaceReport) -> RenderableType:
    """The size of a space, its dimensions, and what was left out."""
    dimensions = plain_table("dimension", "values, the default first")
    for dimension in report.dimensions:
        values = Text(_values(dimension.values, dimension.default))
        dimensions.add_row(
            dimension.name, values.append(f"\n{dimension.description}" if dimension.description else "", "dim")
        )
    exclusions = plain_table("left out", "why")
    for exclusion in report.exclusions:
        exclusions.add_row(exclusion.what, exclusion.why)
    left_out: list[RenderableType] = ["", exclusions] if report.exclusions else []
    return Group(Text(f"{report.size:,} candidates", "bold"), "", dimensions, *left_out)


def plan(spec: SearchSpec, report: SpaceReport) -> RenderableType:
    """What a search would do."""
    budget = [f"{spec.trials} trials", *([show_seconds(spec.timeout_s)] if spec.timeout_s else [])]
    each = [
        show_seconds(spec.trial_timeout_s),
        *([show_bytes(spec.memory_limit_bytes)] if spec.memory_limit_bytes else []),
    ]
    facts = {
        "workload": spec.workload,
        "objective": spec.goal,
        "limits": ", ".join(show_limit(constraint) for constraint in spec.constraints) or "none",
        "verdicts": f"at {show_confidence(spec.confidence)}",
        "at most": ", ".join(budget),
        "each trial": "at most " + ", ".join(each),
    }
    return Group(facts_table(facts), "", space(report), "", Text("dry run: nothing was run"))


def searches(found: Sequence[StatusReport]) -> RenderableType:
    """Every search of a home, one a line."""
    if not found:
        return Text("no search yet")
    table = plain_table("search", "begun", "status", "trials", "name", "best", folded=("name", "best"))
    for state in found:
        undecided = state.result.trials.undecided
        best = state.result.best.label if state.result.best else f"– ({undecided} undecided)" if undecided else "–"
        table.add_row(state.search, _date(state), state.status, _trials_of(state), state.name, best)
    return table


def status(state: StatusReport) -> RenderableType:
    """How far one search is."""
    counts, best = state.result.trials, state.result.best
    ended = ((name, getattr(counts, name)) for name in ("measured", "rejected", "failed", "cached", "undecided"))
    return facts_table({
        "search": f"{state.search} ({state.name})",
        "status": state.status,
        "workload": state.workload,
        "begun": _date(state),
        "worked for": show_seconds(state.elapsed_s),
        "trials": ", ".join([_trials_of(state), *(f"{count} {name}" for name, count in ended if count)]),
        "best so far" if state.status == "running" else "best": best.label if best else "–",
        **{f"undecided #{trial.number}": show_doubt(trial).removeprefix("undecided: ")
           for trial in state.result.undecided},
        **({"disturbed": spoilt} if (spoilt := show_disturbed(state.result)) else {}),
    })  # fmt: skip


def _trials_of(state: StatusReport) -> str:
    return f"{state.result.trials.total}/{state.trials_wanted}"


def _date(state: StatusReport) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(state.created_at))


def _values(values: Sequence[object], default: object) -> str:
    rest = [value for value in values if value != default]
    return ", ".join(str(value) for value in ([default, *rest] if len(rest) < len(values) else rest))


def facts_table(values: dict[str, str]) -> Table:
    """Names and values, one under the other."""
    table = Table.grid(padding=(0, 2))
    for name, value in values.items():
        table.add_row(Text(name, "bold"), Text(value))
    return table


def plain_table(*headings: str, folded: tuple[str, ...] = ()) -> Table:
    """A plain table; the columns ``folded``, else the last, give way where the terminal is narrow."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading not in (folded or headings[-1:]))
    return table
