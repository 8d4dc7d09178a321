"""The coreml backend: Apple's runtime. Its packages are built on any system, and measured on macOS."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from evaluators.backends.base import Arrays, Backend, Runner
from evaluators.bundle import Manifest
from evaluators.candidate import Candidate, Scalar
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.outcome import Diagnosis
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.coreml import Recipe, needs_macos, read_recipe
from evaluators.source import SourceModel
from evaluators.target import Target, device_of

MODEL = "model.mlpackage"
_UNITS = Choice(
    "compute_units",
    ("all", "cpu_and_ne", "cpu_and_gpu", "cpu_only"),
    "all",
    "which of processor, GPU and Neural Engine Core ML may choose from",
)


class CoreMl(Backend):
    """Builds from ``recipe.json``; the bundle is an ML program with its batch size fixed, as ``model.mlpackage``.

    Core ML sets the number of threads itself and lets nobody else set it.
    """

    name: ClassVar[str] = "coreml"
    devices: ClassVar[tuple[str, ...]] = ("mps", "cpu")
    requires: ClassVar[tuple[str, ...]] = ("coremltools",)
    extra: ClassVar[str] = "coreml"
    own_threads: ClassVar[tuple[str, ...]] = ("mps", "cpu")
    options: ClassVar[tuple[Parameter, ...]] = (_UNITS,)
    left_out: ClassVar[Mapping[str, str]] = MappingProxyType({_UNITS.name: "the target is a processor"})
    builds_anywhere: ClassVar[bool] = True

    def unusable(self, target: Target) -> str | None:
        if (why := super().unusable(target)) is not None:
            return why
        why = needs_macos(target.system)
        return None if why is None else f"{why}: a package for apple-… can be built here, and not be run"

    def refuse(self, profile: WorkloadProfile) -> str | None:
        return profile.exportable

    def options_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        return (_UNITS.narrowed(("cpu_only",)),) if target.device == "cpu" else self.options

    def refuse_option(self, scheme: str, option: str, value: Scalar, target: str) -> str | None:
        return _refuse_neural_engine(scheme, value) if option == _UNITS.name else None

    def build(self, quantized: Path, bundle: Path, source: SourceModel, candidate: Candidate) -> None:
        from evaluators.backends.coreml_package import convert, needed_operators, save
        from evaluators.diagnosis.coreml import read_package, refuse_package

        recipe = read_recipe(quantized)
        if (why := refuse_candidate(candidate, recipe)) is not None:
            raise UnsupportedError(why)
        save(convert(source, recipe, candidate.batch_size), bundle / MODEL)
        found = read_package(bundle / MODEL)
        if (why := refuse_package(found, needed_operators(source), recipe)) is not None:
            raise UnsupportedError(why)

    def load(self, bundle: Path, manifest: Manifest) -> Runner:
        if (why := needs_macos(platform.system())) is not None:
            raise UnsupportedError(f"{why}: measure this bundle on a Mac")
        from evaluators.backends.coreml_package import open_package

        units = units_of(manifest.candidate)
        with converting("Core ML cannot load the package"):
            return CoreMlRunner(open_package(bundle / MODEL, units), manifest)

    def diagnose(self, runner: Any, folder: Path, manifest: Manifest, batch: Arrays) -> Diagnosis:
        from evaluators.backends.coreml_package import planned_units
        from evaluators.diagnosis.coreml import diagnosis, read_package

        planned = planned_units(runner.model, units_of(manifest.candidate))
        return diagnosis(read_package(folder / MODEL), planned, manifest.candidate.quantization.scheme)


def units_of(candidate: Candidate) -> str:
    """Return the compute units that the candidate asks for."""
    return str(candidate.runtime.knobs.get(_UNITS.name, _UNITS.default))


def refuse_candidate(candidate: Candidate, recipe: Recipe) -> str | None:
    """Return which part of the candidate Core ML cannot honour, or None."""
    if candidate.runtime.threads != 1:
        return f"threads is {candidate.runtime.threads}, and Core ML sets its threads itself: ask for threads 1"
    units = units_of(candidate)
    if units not in _UNITS.values:
        return f"compute_units is {units!r}; it must be one of {list(_UNITS.values)}"
    if device_of(candidate.target) == "cpu" and units != "cpu_only":
        return f"compute_units is {units!r}, and {candidate.target} is a processor: ask for 'cpu_only'"
    return _refuse_neural_engine(recipe.compute, units)


def _refuse_neural_engine(scheme: str, units: Scalar) -> str | None:
    if scheme == "fp32" and units == "cpu_and_ne":
        return "compute_units is 'cpu_and_ne', and the Neural Engine does not compute in float32: ask for scheme fp16"
    return None


class CoreMlRunner:
    """One loaded model; takes arrays by name, 64-bit integers as 32-bit ones, which is what Core ML has."""

    def __init__(self, model: Any, manifest: Manifest) -> None:
        self.model = model
        self._predict = model.predict
        self._declared, self._batch_size = manifest.inputs, manifest.candidate.batch_size
        self._dtypes = {spec.name: _core_ml_type(spec.dtype) for spec in manifest.inputs.tensors}
        self._outputs = [(spec.name, spec.dtype) for spec in manifest.outputs.tensors]

    def prepare(self, batch: Arrays) -> dict[str, np.ndarray]:
        self._declared.check(batch, self._batch_size)
        return {name: np.ascontiguousarray(batch[name], dtype=dtype) for name, dtype in self._dtypes.items()}

    def run(self, prepared: dict[str, np.ndarray]) -> dict[str, Any]:
        result: dict[str, Any] = self._predict(prepared)
        return result

    def outputs(self, raw: dict[str, Any]) -> list[np.ndarray]:
        return [np.array(raw[name], dtype=dtype) for name, dtype in self._outputs]


def _core_ml_type(dtype: str) -> str:
    return "int32" if dtype in ("int64", "bool") else dtype
