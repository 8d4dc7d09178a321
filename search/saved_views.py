"""Saved views: what of a search is opened in MLflow's UI, and the address of each. Made for the routes of MLflow 3."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, get_args
from urllib.parse import quote

View = Literal["search", "picture", "story", "front", "trials", "best", "compare"]
VIEWS: tuple[str, ...] = get_args(View)
"""What ``paretune ui --view`` can show of a search."""

SAVED = ("front", "trials")
"""The views that are tables of runs; MLflow keeps their filter, order and columns in a tag of the experiment."""

_TAG = "mlflow.sharedViewState."
_MODE = "workflowType=machine_learning"
_ORDER = {"latency": ("latency/{percentile}_ms", True), "throughput": ("throughput/per_s", False),
          "size": ("cost/size_mb", True), "cost": ("cost/per_million", True)}  # fmt: skip
_COLUMNS = (
    "params.`backend`", "params.`quantization.scheme`", "params.`pruning.structure`", "params.`pruning.amount`",
    "params.`batch_size`",
)  # fmt: skip


def saved_views(search_id: str, objective: str, percentile: str) -> dict[str, str]:
    """Return the tags of the experiment that hold the views of a search."""
    return {tag_of(search_id, view): json.dumps(_state(search_id, view, objective, percentile)) for view in SAVED}


def tag_of(search_id: str, view: str) -> str:
    """Return the key of the tag that holds a view."""
    return f"{_TAG}{search_id}-{view}"


def condition_of(search_id: str, view: str) -> str:
    """Return the filter of a view that is a table of runs."""
    mine = f"tags.`paretune.search` = '{search_id}' and tags.`paretune.kind` = 'trial'"
    return f"{mine} and tags.`paretune.pareto` = 'true'" if view == "front" else mine


def runs_address(experiment: str, search_id: str) -> str:
    """Return the address of all runs of a search, its own and its trials'."""
    condition = quote(f"tags.`paretune.search` = '{search_id}'", safe="")
    return f"#/experiments/{experiment}/runs?{_MODE}&searchFilter={condition}"


def view_address(experiment: str, search_id: str, view: str) -> str:
    """Return the address of a view that is a table of runs."""
    return f"#/experiments/{experiment}/runs?{_MODE}&viewStateShareKey={search_id}-{view}"


def run_address(experiment: str, run_id: str, artifact: str | None = None) -> str:
    """Return the address of a run, or of one of its artifacts."""
    shown = f"/artifacts/{quote(artifact)}" if artifact else ""
    return f"#/experiments/{experiment}/runs/{run_id}{shown}?{_MODE}"


def compare_address(experiment: str, run_ids: Sequence[str]) -> str:
    """Return the address of the page that compares runs."""
    runs, experiments = (quote(json.dumps(some), safe="") for some in (list(run_ids), [experiment]))
    return f"#/compare-runs?runs={runs}&experiments={experiments}&{_MODE}"


def links_of(experiment: str, search_id: str, parent: str, front: Sequence[str]) -> dict[str, str]:
    """Return what a search's note links to; ``front`` are the runs of the front, best objective first."""
    links = {
        "picture of the front": run_address(experiment, parent, "front.html"),
        "how it went": run_address(experiment, parent, "story.html"),
        "runs of the front": view_address(experiment, search_id, "front"),
        "all trials": view_address(experiment, search_id, "trials"),
    }
    if front:
        links["the best"] = run_address(experiment, front[0])
    if len(front) > 1:
        links["the front compared"] = compare_address(experiment, front)
    return links


def _state(search_id: str, view: str, objective: str, percentile: str) -> dict[str, Any]:
    """Return the state of MLflow's table of runs: which, in what order, with which columns."""
    key, ascending = _ORDER[objective]
    latency = f"metrics.`latency/{percentile}_ms`"
    metrics = [latency, "metrics.`throughput/per_s`", "metrics.`quality/accuracy`", "metrics.`quality/drop`",
               "metrics.`cost/size_mb`"]  # fmt: skip
    endings = ["tags.`paretune.verdict`"] if view == "front" else ["tags.`paretune.outcome`", "tags.`paretune.verdict`"]
    columns = [*_COLUMNS, *metrics, *endings]
    return {
        "searchFilter": condition_of(search_id, view),
        "orderByKey": f"metrics.`{key.format(percentile=percentile)}`", "orderByAsc": ascending,
        "selectedColumns": columns, "runListHidden": False,
    }  # fmt: skip
