"""Every call into coremltools: a float model becomes a package, and on macOS a package is opened and its plan read.

coremltools takes seconds to import and says much: it is imported and silenced here only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.coreml import Recipe
from evaluators.source import SourceModel
from evaluators.stages.export import export_again, positional, positional_module

if TYPE_CHECKING:
    from torch.export import ExportedProgram

LARGEST_UNCOMPRESSED = 256
"""Tensors with no more elements stay float: what they need besides their values would weigh more than they save."""

LONGEST = 4096
"""The longest that a varying axis may get where nothing in the captured model bounds it."""

_MOST_EXAMPLES = 64
_KINDS = {
    "convolution": ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "convolution"),
    "linear": ("linear", "addmm"),
    "recurrent": ("lstm", "gru", "rnn_tanh", "rnn_relu"),
    "embedding": ("embedding",),
}


def needed_operators(source: SourceModel) -> Counter[str]:
    """Return how many convolutions, linear and recurrent layers and embeddings the float model computes, by kind."""
    return count_operators(_program(source))


def count_operators(program: ExportedProgram) -> Counter[str]:
    """Count the operators with weights in an exported program, by kind."""
    kinds = {name: kind for kind, names in _KINDS.items() for name in names}
    found: Counter[str] = Counter()
    for node in program.graph.nodes:
        name = str(node.target).removeprefix("aten.").partition(".")[0]
        if node.op == "call_function" and name in kinds:
            found[kinds[name]] += 1
    return found


def convert(source: SourceModel, recipe: Recipe, batch_size: int) -> Any:
    """Return the ML program of ``source`` for one batch size, its weights stored as ``recipe`` says.

    Raises:
        UnsupportedError: coremltools cannot convert or compress it.
    """
    profile = source.profile
    with converting("coremltools cannot convert the model"):
        import coremltools

        captured, inputs = _captured(source, batch_size)
        model = coremltools.convert(
            captured,
            inputs=inputs,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(coremltools.target, recipe.deployment.replace("ios", "iOS")),
            compute_precision={"fp32": coremltools.precision.FLOAT32, "fp16": coremltools.precision.FLOAT16}[
                recipe.compute
            ],
            skip_model_load=recipe.activations == "float",  # to find the ranges of activations it has to run
        )
        model = _named(model, profile)
    with converting("coremltools cannot compress the model"):
        return _compressed(model, recipe, source, batch_size)


def save(model: Any, path: Path) -> None:
    """Write a converted model as ``.mlpackage``."""
    with converting("coremltools cannot write the package"):
        model.save(str(path))


def open_package(path: Path, units: str) -> Any:
    """Load a package on macOS with the compute units asked for."""
    import coremltools

    return coremltools.models.MLModel(str(path), compute_units=getattr(coremltools.ComputeUnit, units.upper()))


def planned_units(model: Any, units: str) -> list[tuple[str, str, float | None]]:
    """Return where Core ML plans to run each operation, on macOS: (type, ``cpu``/``gpu``/``ne``, share of the cost)."""
    import coremltools
    from coremltools.models.compute_device import MLCPUComputeDevice, MLGPUComputeDevice, MLNeuralEngineComputeDevice
    from coremltools.models.compute_plan import MLComputePlan

    names = {MLCPUComputeDevice: "cpu", MLGPUComputeDevice: "gpu", MLNeuralEngineComputeDevice: "ne"}
    wanted = getattr(coremltools.ComputeUnit, units.upper())
    plan = MLComputePlan.load_from_path(model.get_compiled_model_path(), compute_units=wanted)
    planned = []
    for operation in plan.model_structure.program.functions["main"].block.operations:
        usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
        if usage is None:  # a constant, which runs nowhere
            continue
        cost = plan.get_estimated_cost_for_mlprogram_operation(operation)
        unit = names.get(type(usage.preferred_compute_device), "other")
        name = str(operation.operator_name).rpartition(".")[2]  # "ios17.conv"
        planned.append((name, unit, None if cost is None else float(cost.weight)))
    return planned


def _captured(source: SourceModel, batch_size: int) -> tuple[Any, list[Any] | None]:
    """Return the model as coremltools takes it: an exported program, or a trace where it has recurrent layers.

    coremltools 9 knows LSTM, GRU and RNN in traces only.
    """
    import torch

    program, example = _program(source), source.example(batch_size)
    with torch.no_grad():
        if not count_operators(program)["recurrent"]:
            fixed = export_again(program.module(), example, source.profile, batch_size)
            return fixed.run_decompositions({}), None
        module = positional_module(source.module(), source.profile.inputs).eval()
        tensors = positional(example, source.profile.inputs)
        trace: Any = torch.jit.trace
        return trace(module, tuple(tensors)), _input_types(source.profile, tensors)


def _program(source: SourceModel) -> Any:
    import torch

    return torch.export.load(source.exported())


def _input_types(profile: WorkloadProfile, tensors: list[Any]) -> list[Any]:
    """Return names, shapes and types of the inputs of a trace; axes that vary get a range."""
    import coremltools

    types = []
    for spec, tensor in zip(profile.inputs.tensors, tensors, strict=True):
        shape: list[Any] = list(tensor.shape)
        for axis in spec.dynamic_axes:
            shape[axis] = coremltools.RangeDim(lower_bound=1, upper_bound=LONGEST, default=tensor.shape[axis])
        dtype = np.int32 if spec.dtype in ("int64", "int32", "bool") else np.float32
        types.append(coremltools.TensorType(name=spec.name, shape=tuple(shape), dtype=dtype))
    return types


def _named(model: Any, profile: WorkloadProfile) -> Any:
    """Give inputs and outputs the names of the profile, which the captured model has by position only."""
    import coremltools

    spec = model.get_spec()
    described = spec.description
    for values, names in ((described.input, profile.inputs.names), (described.output, profile.outputs.names)):
        if len(values) != len(names):
            raise UnsupportedError(f"the program has {len(values)} values for {', '.join(names)}: some are the same")
        for current, name in zip([value.name for value in values], names, strict=True):
            coremltools.utils.rename_feature(spec, current, name)
    loaded = model.__proxy__ is not None
    return coremltools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=not loaded)


def _compressed(model: Any, recipe: Recipe, source: SourceModel, batch_size: int) -> Any:
    """Store weights, and quantize activations, as the recipe says."""
    import coremltools.optimize.coreml as optimize

    if recipe.activations == "int8":
        from coremltools.optimize.coreml.experimental import (
            OpActivationLinearQuantizerConfig,
            linear_quantize_activations,
        )

        activations = OpActivationLinearQuantizerConfig(mode="linear_symmetric")
        model = linear_quantize_activations(
            model, optimize.OptimizationConfig(global_config=activations), list(_feeds(source, batch_size))
        )
    if recipe.weights == "int8":
        linear = optimize.OpLinearQuantizerConfig(
            mode="linear_symmetric", dtype="int8", granularity="per_channel", weight_threshold=LARGEST_UNCOMPRESSED
        )
        model = optimize.linear_quantize_weights(model, optimize.OptimizationConfig(global_config=linear))
    if recipe.weights == "palettized":
        table = optimize.OpPalettizerConfig(mode="kmeans", nbits=recipe.bits, weight_threshold=LARGEST_UNCOMPRESSED)
        model = optimize.palettize_weights(model, optimize.OptimizationConfig(global_config=table))
    return model


def _feeds(source: SourceModel, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield calibration batches by name, in the types that Core ML takes."""
    inputs = source.profile.inputs
    for batch in source.calibration(batch_size, _MOST_EXAMPLES):
        arrays = [np.asarray(tensor) for tensor in positional(batch, inputs)]
        yield {
            spec.name: array.astype(np.int32) if spec.dtype in ("int64", "bool") else array
            for spec, array in zip(inputs.tensors, arrays, strict=True)
        }
