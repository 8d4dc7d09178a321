"""The registry: MLflow's model versions and aliases of a home, as a promotion needs them."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any
from urllib.parse import unquote, urlparse

from evaluators.bundle import read_manifest
from evaluators.errors import UsageError
from evaluators.frozen import Frozen
from search.mlflow_store import mlflow_fails_as, open_client
from search.promotion.names import ModelAlias
from search.tracking_server import tracking_server


class Version(Frozen):
    """A model version as the registry knows it; ``bundle`` is the folder of the bundle that it serves."""

    model: str
    version: int
    bundle: str
    run_id: str
    tags: dict[str, str]
    aliases: tuple[str, ...]


class Registry:
    """Versions and aliases in the MLflow store of a home. Nothing here is serialized: callers hold ``registry_lock``.

    Every method raises InfrastructureError where MLflow fails.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._client: Any = None
        self._copies: TemporaryDirectory[str] | None = None

    @property
    def client(self) -> Any:
        """MLflow's own client, opened when it is first needed."""
        self._client = self._client or open_client(self._home)
        return self._client

    def aliases(self, model: str) -> dict[str, int]:
        """Return every alias of a model with the version that it points at; empty where there is no such model."""
        with mlflow_fails_as(f"read the aliases of {model}"):
            found = self._registered(model)
            return {} if found is None else {alias: int(version) for alias, version in found.aliases.items()}

    def models(self) -> tuple[str, ...]:
        """Return the names of all registered models."""
        names: list[str] = []
        token = None
        with mlflow_fails_as("list the registered models"):
            while True:
                page = self.client.search_registered_models(max_results=200, page_token=token)
                names += [model.name for model in page]
                token = page.token
                if not token:
                    return tuple(sorted(names))

    def version(self, model: str, version: int) -> Version:
        """Return a version of a model.

        Raises:
            UsageError: it is no version that paretune made.
        """
        with mlflow_fails_as(f"read version {version} of {model}"):
            found = self.client.get_model_version(model, str(version))
            folder = self._local(self.client.get_model_version_download_uri(model, str(version)))
            return Version(model=model, version=int(found.version), bundle=str(_bundle_in(folder)),
                           run_id=found.run_id or "", tags=dict(found.tags),
                           aliases=tuple(found.aliases))  # fmt: skip

    def current(self, name: ModelAlias) -> Version:
        """Return the version that an alias points at.

        Raises:
            UsageError: the alias points nowhere.
        """
        aliases = self.aliases(name.model)
        if name.alias not in aliases:
            known = ", ".join(f"{name.model}@{alias}" for alias in sorted(aliases)) or "none"
            raise UsageError(f"there is no {name} in the registry of {self._home}; there are: {known}")
        return self.version(name.model, aliases[name.alias])

    def register(self, model: str, source: str, run_id: str, model_id: str, tags: dict[str, str], card: str) -> int:
        """Make a new version from a logged model and return its number; the registered model is made where missing."""
        with mlflow_fails_as(f"register a version of {model}"):
            if self._registered(model) is None:
                self.client.create_registered_model(model, description=_ABOUT)
            made = self.client.create_model_version(
                model, source, run_id=run_id, tags=tags, description=card, model_id=model_id
            )
            return int(made.version)

    def copy(self, model: str, version: int, to: str) -> int:
        """Make a new version of another registered model from one that exists, with its tags and card."""
        with mlflow_fails_as(f"copy version {version} of {model} to {to}"), redirect_stderr(io.StringIO()):
            return int(self.client.copy_model_version(f"models:/{model}/{version}", to).version)

    def withdraw(self, model: str, version: int) -> None:
        """Delete a version, and its model where it was the only one: it never served anybody."""
        with mlflow_fails_as(f"delete version {version} of {model}"):
            self.client.delete_model_version(model, str(version))
            if not list(self.client.search_model_versions(f"name = '{model}'", max_results=1)):
                self.client.delete_registered_model(model)

    def point(self, model: str, alias: str, version: int | None) -> None:
        """Make an alias point at a version, or take it away."""
        with mlflow_fails_as(f"move {model}@{alias}"):
            if version is not None:
                self.client.set_registered_model_alias(model, alias, str(version))
            elif alias in self.aliases(model):
                self.client.delete_registered_model_alias(model, alias)

    def tag(self, model: str, version: int, key: str, value: str) -> None:
        """Tag a version."""
        with mlflow_fails_as(f"tag version {version} of {model}"):
            self.client.set_model_version_tag(model, str(version), key, value)

    def _local(self, uri: str) -> Path:
        """Return the folder of a model's files: a copy that lasts as long as this object, where they are on a server.

        Raises:
            UsageError: they are neither on this machine nor on the server that the home keeps its runs on.
        """
        parsed = urlparse(uri)
        if parsed.scheme == "":
            return Path(uri)
        if parsed.scheme == "file":
            return Path(unquote(parsed.path))
        server = tracking_server(self._home)
        if server is None:
            raise UsageError(f"model files at {uri} are not on this machine; commands on bundles need them here")
        from mlflow.artifacts import download_artifacts

        (self._home / "cache").mkdir(exist_ok=True)
        self._copies = self._copies or TemporaryDirectory(prefix="registered-", dir=self._home / "cache")
        with redirect_stderr(io.StringIO()):
            return Path(download_artifacts(uri, dst_path=mkdtemp(dir=self._copies.name), tracking_uri=server))

    def _registered(self, model: str) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(model)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise


_ABOUT = "Promoted by paretune: every version passed its gates, or says that it did not."


def digest_of(version: Version) -> str:
    """Return the digest of the bundle that a version serves, after checking every file.

    Raises:
        IntegrityError: it is not what was registered.
    """
    return read_manifest(Path(version.bundle)).digest


def _bundle_in(folder: Path) -> Path:
    """Return the bundle within a logged model's folder: the one artifact that it was saved with.

    Raises:
        UsageError: no bundle of paretune is in it.
    """
    for found in sorted((folder / "artifacts").glob("*/manifest.json")):
        return found.parent
    raise UsageError(f"model files in {folder} hold no bundle, so paretune did not make this version")
