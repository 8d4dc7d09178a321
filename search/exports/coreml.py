"""Format ``coreml``: the package for an app, and the Swift that calls it."""

from __future__ import annotations

from pathlib import Path

from evaluators.bundle import Manifest
from search.exports.format import Format, Options, Written
from search.exports.parts import write_examples
from search.exports.source import Source

MODEL = "model.mlpackage"
_UNITS = {"all": "all", "cpu_only": "cpuOnly", "cpu_and_gpu": "cpuAndGPU", "cpu_and_ne": "cpuAndNeuralEngine"}
_TYPES = {"float16": "float16", "float32": "float32"}
"""Core ML's words; whole numbers are int32 there."""

_SWIFT = """import CoreML

/// Runs model.mlpackage, added to the app's target, on the compute units that were measured.
/// Every call takes a batch of exactly {batch_size}.
struct Classifier {{
    private let model: MLModel

    init(compiled url: URL) throws {{
        let configuration = MLModelConfiguration()
        configuration.computeUnits = .{units}
        model = try MLModel(contentsOf: url, configuration: configuration)
    }}

    func callAsFunction({arguments}) throws -> [String: MLMultiArray] {{
        let inputs = try MLDictionaryFeatureProvider(dictionary: [{dictionary}])
        let answer = try model.prediction(from: inputs)
        return [{names}].reduce(into: [:]) {{ $0[$1] = answer.featureValue(for: $1)?.multiArrayValue }}
    }}
}}

// {shapes}
"""


def _refuse(manifest: Manifest) -> str | None:
    if any(name.startswith(f"{MODEL}/") for name in manifest.files):
        return None
    return f"its files are {', '.join(sorted(manifest.files))}, without a Core ML package"


def _write(source: Source, folder: Path, options: Options) -> Written:
    for name in source.manifest.files:
        if name.startswith(f"{MODEL}/"):
            source.copy_file(name, folder / name)
    (folder / "Predict.swift").write_text(swift_of(source.manifest))
    return Written("open model.mlpackage", write_examples(source, folder))


def swift_of(manifest: Manifest) -> str:
    """Return Swift that calls the package with the compute units and the tensors of a bundle."""
    candidate, inputs = manifest.candidate, manifest.inputs.tensors
    units = str(candidate.runtime.knobs.get("compute_units", "all"))
    quoted = [f'"{tensor.name}"' for tensor in inputs]
    shapes = [(tensor, (candidate.batch_size, *tensor.shape[1:])) for tensor in inputs]
    return _SWIFT.format(
        batch_size=candidate.batch_size, units=_UNITS.get(units, "all"),
        arguments=", ".join(f"_ input{index}: MLMultiArray" for index, _ in enumerate(inputs)),
        dictionary=", ".join(f"{name}: input{index}" for index, name in enumerate(quoted)),
        names=", ".join(f'"{name}"' for name in manifest.outputs.names),
        shapes="\n// ".join(
            f"{tensor.name}: MLMultiArray of .{_TYPES.get(tensor.dtype, 'int32')}, shape "
            f"[{', '.join('any' if size is None else str(size) for size in shape)}]"
            for tensor, shape in shapes
        ),
    )  # fmt: skip


FORMAT = Format("coreml", "the .mlpackage, and the Swift that calls it", _refuse, _write)
