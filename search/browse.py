"""Browse: the command that opens the MLflow UI on a home, and the address that shows one search in it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from evaluators.errors import UsageError
from search import saved_views
from search.mlflow_store import ARTIFACTS, mlflow_fails_as, open_client, store_uri
from search.spec import SearchSpec
from search.tracking_server import tracking_server


def ui_command(
    home: Path, experiment: str | None, search_id: str | None, port: int, host: str,
    view: str | None = None, spec: SearchSpec | None = None,
) -> tuple[list[str], str]:  # fmt: skip
    """Return the server's command line and the address to open: a view of the search, its runs, or all experiments.

    Args:
        view: one of ``saved_views.VIEWS``; ``spec`` is then the search's.

    The command is empty where a server keeps the home's runs already.

    Raises:
        InfrastructureError: the store cannot be read.
        UsageError: the search has nothing to show in that view.
    """
    server = tracking_server(home)
    command = [] if server else [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri(home), "--artifacts-destination",
        (home / ARTIFACTS).as_uri(), "--host", host, "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    address = f"{server}/" if server else f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/"  # noqa: S104
    if experiment is None or search_id is None:
        if view is not None:
            raise UsageError(f"view {view} needs a search whose workload was read")
        return command, address
    client = open_client(home)
    with mlflow_fails_as("find the search"):
        found = client.get_experiment_by_name(experiment)
        if found is None:
            if view is not None:
                raise UsageError(f"view {view}: search {search_id} has no runs in MLflow yet")
            return command, address
        if view is None or spec is None:
            return command, address + saved_views.runs_address(found.experiment_id, search_id)
        return command, address + Browsed(client, found.experiment_id, search_id).address(view, spec)


class Browsed:
    """One search in MLflow, and where its views are."""

    def __init__(self, client: Any, experiment: str, search_id: str) -> None:
        self._client, self._experiment, self._search = client, experiment, search_id

    def address(self, view: str, spec: SearchSpec) -> str:
        """Return the address of a view, without the server's; what MLflow must know for it is kept there.

        Raises:
            UsageError: there is nothing to show yet.
        """
        experiment = self._experiment
        if view in saved_views.SAVED:
            for key, state in saved_views.saved_views(self._search, spec.goal, spec.percentile).items():
                self._client.set_experiment_tag(experiment, key, state)
            return saved_views.view_address(experiment, self._search, view)
        if view == "compare":
            runs = [run.info.run_id for run in self._found(saved_views.condition_of(self._search, "front"))]
            if len(runs) < 2:
                raise UsageError(f"nothing to compare: the front of search {self._search} has {len(runs)} trials")
            return saved_views.compare_address(experiment, runs)
        parents = self._found(f"tags.`paretune.search` = '{self._search}' and tags.`paretune.kind` = 'search'")
        if not parents:
            raise UsageError(f"search {self._search} has no run in MLflow yet")
        if view == "best":
            return saved_views.run_address(experiment, self._best(parents[0].data.tags.get("paretune.best")))
        artifact = {"picture": "front.html", "story": "story.html"}.get(view)
        return saved_views.run_address(experiment, parents[0].info.run_id, artifact)

    def _best(self, number: str | None) -> str:
        trial = f"tags.`paretune.trial` = '{self._search}/{number}'"
        runs = self._found(trial) if number is not None else []
        if not runs:
            raise UsageError(f"search {self._search} has no feasible trial yet; see the nearest with paretune status")
        return str(runs[0].info.run_id)

    def _found(self, condition: str) -> list[Any]:
        return list(self._client.search_runs([self._experiment], condition, max_results=1000))
