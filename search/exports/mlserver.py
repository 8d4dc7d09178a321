"""Format ``mlserver``: a model folder for MLServer, whose adaptive batching gathers what was measured."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from evaluators.bundle import Manifest
from evaluators.standalone import HERE
from search.exports.evidence import batching_window_ms
from search.exports.format import Format, Options, Written
from search.exports.parts import (
    needs_runner,
    no_v2_type,
    requirements,
    v2_tensors,
    write_examples,
    write_json,
    write_runner,
)
from search.exports.source import Source

VERSION = "1.7.1"
"""Of MLServer that the tests start."""


def _refuse(manifest: Manifest) -> str | None:
    return needs_runner(manifest) or no_v2_type(manifest)


def model_settings(source: Source, options: Options, module: str) -> dict[str, Any]:
    """Return ``model-settings.json``; a batch of one, or of inputs whose length varies, is not gathered."""
    manifest = source.manifest
    size, window = manifest.candidate.batch_size, options.window_ms
    window = batching_window_ms(source.evidence) if window is None else window
    gathers = size > 1 and window > 0 and not manifest.inputs.varies
    return {
        "name": options.name or source.name,
        "implementation": f"{module}.Served",
        "platform": f"paretune_{manifest.candidate.backend}",
        "inputs": v2_tensors(manifest.inputs),
        "outputs": v2_tensors(manifest.outputs),
        "max_batch_size": size if gathers else 0,
        "max_batch_time": window / 1e3 if gathers else 0.0,
        "parameters": {"uri": ".", "extra": {"digest": manifest.digest}},
    }


def _write(source: Source, folder: Path, options: Options) -> Written:
    module = f"served_{source.manifest.digest[:12]}"  # MLServer keeps modules by name, also of other models
    write_runner(source, folder)
    shutil.copyfile(HERE / "mlserver_model.py", folder / f"{module}.py")
    settings = model_settings(source, options, module)
    write_json(folder / "model-settings.json", settings)
    # With workers of their own, MLServer would gather in one process and compute in others, whose threads add up.
    write_json(folder / "settings.json", {"parallel_workers": options.instances or 0})
    (folder / "requirements.txt").write_text(requirements(source.manifest, f"mlserver=={VERSION}"))
    size = settings["max_batch_size"]
    gathered = f"into batches of {size}, for at most {settings['max_batch_time'] * 1e3:g} ms" if size else "not at all"
    return Written("mlserver start .", (f"requests are gathered {gathered}", *write_examples(source, folder)))


FORMAT = Format(
    "mlserver", "a model folder of MLServer, Open Inference Protocol", _refuse, _write,
    frozenset({"name", "window_ms", "instances"}),
)  # fmt: skip
