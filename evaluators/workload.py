"""Workload: the user's side of a search — the model, its data and its metric — and how it is found by name."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluators.errors import WorkloadError

ARCHIVE = "archive:"
"""Begins the reference of a workload whose code is an archive: ``archive:HASH/file.py:attribute``."""

UNPACKED = "PARETUNE_UNPACKED"
"""Environment variable: the folder that holds unpacked archives by their hash."""

_LOADED_PREFIX = "paretune_workload_"


@dataclass(frozen=True)
class Workload:
    """A trained model, example data, and what counts as accurate.

    Attributes:
        name: what the results are filed under.
        model: ``() -> nn.Module`` with trained weights, in eval mode.
        calibration: ``() -> Dataset`` (map-style) of ``(inputs, target)``; inputs are a Tensor, or a tuple or dict
            of Tensors, without a batch dimension.
        validation: ``() -> Dataset``: what the search scores on.
        test: ``() -> Dataset``, sealed: scored at promotion only.
        train: ``() -> Dataset`` for recovery and quantization-aware training.
        metric: ``(outputs, targets) -> scores`` of shape (N,), one per example, higher is better; or a factory of a
            ``torchmetrics.Metric``. Without one, the score is the agreement with the original model.
        loss: ``(outputs, targets) -> scalar``; recovery distils from the original model without it.
        collate: ``list[(inputs, target)] -> (inputs, targets)``, for variable-length inputs.
        licences: of what goes into a bundle: ``{"model": "MIT", "data": "CC-BY-4.0"}``. Bundles carry them.
        preprocessing: what raw data need before the model can take them, in words, or a file that declares it (a
            ``Path``, absolute or beside the working directory). Bundles carry it; nothing runs it.
    """

    name: str
    model: Callable[[], Any]
    calibration: Callable[[], Any]
    validation: Callable[[], Any]
    test: Callable[[], Any] | None = None
    train: Callable[[], Any] | None = None
    metric: Callable[..., Any] | None = None
    loss: Callable[..., Any] | None = None
    collate: Callable[..., Any] | None = None
    licences: Mapping[str, str] = field(default_factory=dict)
    preprocessing: str | Path | None = None


def load_workload(reference: str) -> Workload:
    """Load ``path/to/file.py:attribute``, ``package.module:attribute`` or ``archive:HASH/file.py:attribute``.

    A file's own folder is importable while it loads, so that it can import its siblings. An archive has been checked
    and unpacked by whoever started this process.

    Raises:
        WorkloadError: the reference, the file, the module or the attribute cannot be used.
    """
    location, separator, attribute = reference.rpartition(":")
    if not separator or not location or not attribute:
        raise WorkloadError(
            f"workload {reference!r} is not of the form path/to/file.py:attribute or package.module:attribute"
        )
    module = _load_file(_located(location)) if location.endswith(".py") else _import_module(location)
    try:
        value = getattr(module, attribute)
    except AttributeError:
        known = [name for name, item in vars(module).items() if isinstance(item, Workload)]
        raise WorkloadError(f"{location} has no attribute {attribute!r}; its workloads are {known or 'none'}") from None
    if not isinstance(value, Workload):
        kind = type(value).__name__
        raise WorkloadError(f"{reference} is a {kind}, not a Workload; wrap it in evaluators.Workload(...)")
    return value


def absolute_reference(reference: str) -> str:
    """Return ``reference`` with a file path made absolute, so that it holds in another working directory."""
    location, _, attribute = reference.rpartition(":")
    if archive_of(reference) is not None or not location.endswith(".py"):
        return reference
    return f"{Path(location).resolve()}:{attribute}"


def archive_of(reference: str) -> str | None:
    """Return the hash of the archive that holds a workload's code; None where it is no archive."""
    return reference.removeprefix(ARCHIVE).partition("/")[0] if reference.startswith(ARCHIVE) else None


def reference_of(workload: Workload) -> str:
    """Find the module-level name of a workload object, so that another process can load it.

    Raises:
        WorkloadError: no module-level name holds it.
    """
    for name, module in list(sys.modules.items()):
        for attribute, value in list(vars(module).items()) if hasattr(module, "__dict__") else ():
            if value is workload:
                file = getattr(module, "__file__", None)
                if name == "__main__" or name.startswith(_LOADED_PREFIX):
                    if file is None:
                        continue
                    return f"{Path(file).resolve()}:{attribute}"
                return f"{name}:{attribute}"
    raise WorkloadError(
        f"workload {workload.name!r} has no module-level name; each trial runs in a process of its own and loads it by "
        "name, so define it at the top level of a file or a module"
    )


def _located(location: str) -> Path:
    """Return the file that a location names."""
    if not location.startswith(ARCHIVE):
        return Path(location)
    unpacked = os.environ.get(UNPACKED)
    if not unpacked or not (file := Path(unpacked) / location.removeprefix(ARCHIVE)).is_file():
        raise WorkloadError(f"workload {location} was uploaded, and is not unpacked in {unpacked or 'any folder'}; set "
                            f"{UNPACKED} to the folder cache/workloads of a home that has it")  # fmt: skip
    sys.dont_write_bytecode = True  # what is unpacked stays as it was checked
    return file


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise WorkloadError(f"workload file {str(path)!r} does not exist (looked in {Path.cwd()})")
    path = path.resolve()
    name = _LOADED_PREFIX + path.stem
    cached = sys.modules.get(name)
    if cached is not None and getattr(cached, "__file__", None) == str(path):
        return cached
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise WorkloadError(f"workload file {str(path)!r} is not Python source")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        raise WorkloadError(f"loading {path} failed: {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str) -> Any:
    if (cwd := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, cwd)
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise WorkloadError(f"workload module {name!r} cannot be imported: {error}") from error
