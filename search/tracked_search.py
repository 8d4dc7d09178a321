"""What MLflow shows of a search as a whole: its note, its data, its environment and its table. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.profile import WorkloadProfile
from evaluators.target import Target, environment
from search.deciding import advice
from search.result import SearchResult, TrialResult
from search.tracked_trial import clipped, trial_rows
from search.wording import command, headline, in_shares, show_disturbed, show_limit
from search.worth import Worth, show_worth

TABLE = "trials.json"
_FIRST_COLUMNS = (
    "number", "label", "outcome", "verdict", "feasible", "pareto", "latency/p50_ms", "latency/p95_ms",
    "throughput/per_s", "quality/accuracy", "quality/drop", "cost/size_mb", "reason",
)  # fmt: skip
_DIGEST_LENGTH = 32
"""MLflow keeps 36 characters of a data set's digest."""


def search_note(result: SearchResult, worth: Worth | None, links: Mapping[str, str]) -> str:
    """Say in Markdown what the search found, what each factor is worth, how to promote it, and where to look."""
    lines = [f"**{headline(result)}**"]
    if links:
        lines.append("Look at: " + " · ".join(f"[{name}]({address})" for name, address in links.items()))
    lines += advice(result)
    if result.front:
        lines.append("The front, best objective first:\n" + _listed(f"#{t.number} `{t.label}`" for t in result.front))
        promote = command(result, "promote", result.search, "--as", "NAME@champion")
        lines.append(f"Promote the best: `{promote}`, another one with `--trial N`.")
    if worth is not None:
        lines.append(f"What each factor is worth, from `{worth.start_label}`:\n{_listed(show_worth(worth))}")
    limits = " and ".join(show_limit(limit, in_shares(result)) for limit in result.constraints)
    lines.append(f"Asked: {limits or 'no limit'}; objective {result.objective}.")
    if notes := [note for note in (show_disturbed(result), *result.notes) if note]:
        lines.append(_listed(notes))
    lines.append(f"Report: `{command(result, 'report', result.search)}`")
    return clipped("\n\n".join(lines))


def search_tags(result: SearchResult) -> dict[str, str]:
    """Return how the search stands, as tags; what is not known is left out."""
    found: dict[str, Any] = {"status": result.status, "speedup": result.speedup}
    if result.best is not None:
        found |= {"best": result.best.number, "best_label": result.best.label}
    return {f"paretune.{name}": str(value) for name, value in found.items() if value is not None}


def trials_table(trials: Sequence[TrialResult]) -> str:
    """Return every trial as a row of a table that MLflow's UI shows (JSON in pandas' ``split`` form)."""
    rows = trial_rows(trials)
    names = dict.fromkeys(name for row in rows for name in row)
    columns = [*(name for name in _FIRST_COLUMNS if name in names),
               *(name for name in names if name not in _FIRST_COLUMNS)]  # fmt: skip
    return json.dumps({"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]})


def table_tag() -> str:
    """Return the value of the tag by which MLflow knows that the artifact is a table."""
    return json.dumps([{"path": TABLE, "type": "table"}])


def data_of(profile: WorkloadProfile, splits: Sequence[str] | None = None) -> list[Any]:
    """Return the splits of a workload, or some of them, as inputs of a run: name, digest and what they are for."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    known = {"validation": profile.examples, "calibration": profile.calibration_examples}
    source = json.dumps({"tags": {"mlflow.source.name": profile.reference, "mlflow.source.type": "LOCAL"}})
    return [
        DatasetInput(
            dataset=Dataset(
                name=f"{profile.name}-{split}", digest=digest[:_DIGEST_LENGTH], source_type="code", source=source,
                profile=json.dumps({"num_rows": known[split]}) if split in known else None,
            ),
            tags=[InputTag("mlflow.data.context", split)],
        )
        for split, digest in sorted(profile.data_digests.items()) if splits is None or split in splits
    ]  # fmt: skip


def splits_of(trial: TrialResult) -> tuple[str, ...]:
    """Return the splits that a trial surely used: those that it was scored and trained on."""
    used = ["validation"] if trial.accuracy is not None else []
    if trial.training_seconds or (trial.candidate.pruning.recovery != "none" and trial.outcome != "failed"):
        used.append("train")
    return tuple(used)


def environment_of_search(profile: WorkloadProfile, targets: Sequence[Target]) -> str:
    """Return where a search runs, as JSON: the libraries beside its coordinator, its targets, and its workload."""
    facts = {
        "coordinator": environment("optuna", "mlflow", "torch", "torch-pruning"),
        "targets": [target.to_json() | {"fingerprint": target.fingerprint} for target in targets],
        "workload": profile.to_json(),
    }
    return json.dumps(facts, indent=2)


def _listed(items: Any) -> str:
    return "\n".join(f"- {item}" for item in items)
