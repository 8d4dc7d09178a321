"""A bundle of the front as an MLflow model: code and files, a signature, exact requirements, and its evidence."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

from evaluators.bundle import Manifest, read_manifest
from evaluators.structure import Structure
from search.result import SearchResult, TrialResult
from search.tracked_trial import evidence_of, metrics_of, params_of
from workers.sharing import Sharing

SERVED_CODE = Path(__file__).with_name("served_model.py")


def log_bundle(
    client: Any, experiment: str, run_id: str, trial: TrialResult, result: SearchResult, example: Path | None = None
) -> str:
    """Log a trial's bundle as a model that belongs to its run, and return the model's id.

    A model of the same bundle that the run already has is kept; its tags are brought up to date.

    Raises:
        IntegrityError: the bundle is not what was built.
    """
    from mlflow.entities import LoggedModelStatus

    bundle = Sharing.of(Path(result.home)).bundle(trial.bundle or "")
    manifest = read_manifest(bundle)
    tags = evidence_of(trial, result) | {"paretune.bundle": manifest.digest}
    known = models_of(client, experiment, f"tags.`paretune.trial` = '{result.search}/{trial.number}'")
    for model in known:
        if model.tags.get("paretune.bundle") != manifest.digest:
            continue
        if str(model.status) == str(LoggedModelStatus.READY):
            client.set_logged_model_tags(model.model_id, tags)
            return str(model.model_id)
        client.delete_logged_model(model.model_id)  # begun when MLflow failed
    model = client.create_logged_model(
        experiment, name=_model_name(trial), source_run_id=run_id, tags=tags, params=params_of(trial.candidate),
        model_type="paretune",
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="paretune-model-") as scratch:
        folder = Path(scratch) / "model"
        save_bundle(folder, bundle, manifest, tags, example, logged=(model, run_id))
        client.log_model_artifacts(model.model_id, str(folder))
    _link(client, run_id, model.model_id, trial)
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    return str(model.model_id)


def models_of(client: Any, experiment: str, condition: str) -> list[Any]:
    """Return all models of an experiment that fit a filter."""
    found, token = [], None
    while True:
        page = client.search_logged_models([experiment], filter_string=condition, page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def signature_of(inputs: Structure, outputs: Structure) -> Any:
    """Return the MLflow signature of a model: tensors with a free batch axis; a lone tensor has no name."""
    from mlflow.models import ModelSignature

    return ModelSignature(inputs=_schema(inputs), outputs=_schema(outputs))


def requirements_of(manifest: Manifest) -> list[str]:
    """Return the distributions that the bundle needs, with the versions that built it, as pip takes them."""
    return [
        f"{name}=={version.partition('+')[0]}" for name, version in manifest.environment.items() if name != "python"
    ]


def save_bundle(
    folder: Path, bundle: Path, manifest: Manifest, tags: dict[str, str], example: Path | None,
    logged: tuple[Any, str] | None = None,
) -> None:  # fmt: skip
    """Write a bundle as an MLflow model into ``folder``; ``logged`` are the logged model and the run that it is of."""
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    own: dict[str, Any] = {}
    if logged is not None:
        model, run_id = logged
        own = {"artifact_path": model.artifact_location, "run_id": run_id, "model_uuid": model.model_id,
               "model_id": model.model_id}  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(
            path=str(folder), python_model=str(SERVED_CODE), artifacts={"bundle": str(bundle)},
            signature=signature_of(manifest.inputs, manifest.outputs), input_example=_example(example, manifest),
            pip_requirements=requirements_of(manifest), metadata=tags,
            mlflow_model=Model(metadata=tags, **own),
        )  # fmt: skip


def _link(client: Any, run_id: str, model_id: str, trial: TrialResult) -> None:
    """Make the model an output of its run, and the run's metrics the model's."""
    from mlflow.entities import LoggedModelOutput, Metric

    started = client.get_run(run_id).info.start_time
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    client.log_batch(run_id, metrics=[
        Metric(key, value, started, 0, model_id=model_id, run_id=run_id) for key, value in metrics_of(trial).items()
    ])  # fmt: skip


def _schema(structure: Structure) -> Any:
    import numpy as np
    from mlflow.types import Schema, TensorSpec

    named = structure.style != "tensor"
    return Schema([
        TensorSpec(np.dtype(tensor.dtype), (-1, *(-1 if size is None else size for size in tensor.shape[1:])),
                   name=tensor.name if named else None)
        for tensor in structure.tensors
    ])  # fmt: skip


def _example(path: Path | None, manifest: Manifest) -> Any:
    """Read an input example from an ``.npz`` with an array for each input, at most as many rows as a batch has."""
    if path is None or not path.exists():
        return None
    import numpy as np

    rows = manifest.candidate.batch_size
    with np.load(path, allow_pickle=False) as arrays:
        given = {name: arrays[name][:rows] for name in manifest.inputs.names}
    return given[manifest.inputs.names[0]] if manifest.inputs.style == "tensor" else given


def _model_name(trial: TrialResult) -> str:
    """A name without the characters that MLflow refuses in names."""
    words = "".join(character if character.isalnum() or character in "-_" else "-" for character in trial.label)
    return f"{trial.number}-{words}"
