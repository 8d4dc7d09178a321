"""Browse: the command that opens the MLflow UI on a home, and the address that shows one search in it."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote

from search.mlflow_store import ARTIFACTS, mlflow_fails_as, open_client, store_uri
from search.tracking_server import tracking_server


def ui_command(
    home: Path, experiment: str | None, search_id: str | None, port: int, host: str
) -> tuple[list[str], str]:
    """Return the server's command line and the address to open: the search's runs, or all experiments.

    The command is empty where a server keeps the home's runs already.

    Raises:
        InfrastructureError: the store cannot be read.
    """
    server = tracking_server(home)
    command = [] if server else [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store_uri(home), "--artifacts-destination",
        (home / ARTIFACTS).as_uri(), "--host", host, "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    address = f"{server}/" if server else f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/"  # noqa: S104
    if experiment is None or search_id is None:
        return command, address
    with mlflow_fails_as("find the search"):
        found = open_client(home).get_experiment_by_name(experiment)
    if found is None:
        return command, address
    condition = quote(f"tags.`paretune.search` = '{search_id}'", safe="")
    return (
        command,
        f"{address}#/experiments/{found.experiment_id}/runs?workflowType=machine_learning&searchFilter={condition}",
    )
