"""Format ``mlflow``: a model folder that ``mlflow models serve`` and everything else of MLflow takes."""

from __future__ import annotations

from pathlib import Path

from evaluators.bundle import MANIFEST, read_manifest
from evaluators.errors import IntegrityError
from search.exports.format import Format, Options, Written
from search.exports.parts import write_examples
from search.exports.source import Source


def _write(source: Source, folder: Path, options: Options) -> Written:
    from search.mlflow_store import mlflow_fails_as, quiet_mlflow
    from search.tracked_model import save_bundle

    tags = {"paretune.digest": source.manifest.digest, "paretune.label": source.evidence.label,
            "paretune.status": source.evidence.status}  # fmt: skip
    quiet_mlflow()
    with mlflow_fails_as("write the model"):
        save_bundle(folder / "model", source.folder, source.manifest, tags, source.example)
    for copy in (folder / "model" / "artifacts").glob(f"*/{MANIFEST}"):
        if read_manifest(copy.parent).digest != source.manifest.digest:
            raise IntegrityError(f"bundle {source.folder} was changed while it was exported")
    return Written(
        "mlflow models serve -m model --env-manager local",
        ("paretune must be installed where it is served; other hardware than was measured is refused unless "
         "PARETUNE_ALLOW_OTHER_TARGET=1", *write_examples(source, folder)),
    )  # fmt: skip


FORMAT = Format("mlflow", "an MLflow model", lambda manifest: None, _write)
