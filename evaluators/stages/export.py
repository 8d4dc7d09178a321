"""Export: capture the float model once for every runtime, as a ``torch.export`` program and as ONNX.

Both take the arrays of a batch one by one, in the order of the profile's inputs, and return the arrays of the profile's
outputs in order: the user's own structure of inputs and outputs (dict, tuple) ends here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.profile import WorkloadProfile
from evaluators.structure import Structure, call, flatten

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

BATCH = "batch"
_ONE_FILE_BYTES = 2**31 - 2**20


def positional(inputs: Any, structure: Structure) -> list[Any]:
    """Return the tensors of a batch in the user's own structure, in call order."""
    style, named = flatten(inputs, "input")
    return [named[name] for name in structure.names] if style == "dict" else list(named.values())


def positional_module(module: nn.Module, inputs: Structure) -> nn.Module:
    """Wrap ``module`` so that it takes tensors in call order and returns a tuple of tensors."""
    from torch import nn

    class Positional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *tensors: Any) -> tuple[Any, ...]:
            _, named = flatten(call(self.model, inputs.pack(tensors)), "output")
            return tuple(named.values())

    return Positional().train(module.training)


def export_program(
    module: nn.Module, example: Any, profile: WorkloadProfile, batch_size: int | None
) -> ExportedProgram:
    """Capture ``module`` as a program that takes its inputs by position and returns a tuple.

    ``batch_size`` None keeps the batch dynamic. ``example`` is a batch of real inputs in the user's own structure: of
    ``batch_size`` examples, or of any number where the batch stays dynamic. Axes that vary in the profile stay dynamic.

    Raises:
        UnsupportedError: the model cannot be captured so.
    """
    wrapped = positional_module(module, profile.inputs)
    tensors = positional(example, profile.inputs)
    return _capture(wrapped, tensors, {"tensors": dynamic_axes(profile.inputs, batch_size)}, batch_size)


def export_again(module: nn.Module, example: Any, profile: WorkloadProfile, batch_size: int | None) -> ExportedProgram:
    """Capture what once came out of ``export_program`` and was changed since, or is wanted at another batch size.

    Raises:
        UnsupportedError: it cannot be captured so.
    """
    tensors = positional(example, profile.inputs)
    return _capture(module, tensors, dynamic_axes(profile.inputs, batch_size), batch_size)


def _capture(module: nn.Module, tensors: Sequence[Any], axes: Any, batch_size: int | None) -> ExportedProgram:
    import torch

    if batch_size is None and tensors[0].shape[0] == 1:  # torch.export takes an axis of length 1 for a constant
        tensors = [torch.cat([tensor, tensor]) for tensor in tensors]
    with converting("torch.export cannot capture the model"), torch.no_grad(), plain_attention():
        try:  # quantization in this form needs what strict mode gives
            return torch.export.export(module, tuple(tensors), dynamic_shapes=axes, strict=True)
        except MemoryError:
            raise
        except Exception:
            return torch.export.export(module, tuple(tensors), dynamic_shapes=axes, strict=False)


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keep torch's transformer layers from calling fused operators that no other runtime knows."""
    from torch.backends import mha

    enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(enabled)


def dynamic_axes(inputs: Structure, batch_size: int | None) -> tuple[dict[int, Any], ...]:
    """Return the axes that stay dynamic as ``torch.export`` takes them, one dict for each input."""
    from torch.export import Dim

    batch = {0: Dim.DYNAMIC} if batch_size is None else {}
    return tuple({**batch, **{axis: Dim.DYNAMIC for axis in tensor.dynamic_axes}} for tensor in inputs.tensors)


def export_onnx(program: ExportedProgram, profile: WorkloadProfile, path: Path) -> None:
    """Write ``program`` (from ``export_program``) as one ONNX file with the names of the profile.

    A dynamic axis 0 is called ``batch`` in every input and output.

    Raises:
        UnsupportedError: the model cannot be converted, or its weights do not fit one file.
    """
    import torch

    with converting("torch.onnx cannot convert the model"):
        converted = torch.onnx.export(
            program, dynamo=True, verbose=False, optimize=True,
            input_names=list(profile.inputs.names), output_names=list(profile.outputs.names),
        )  # fmt: skip
    if converted is None:
        raise UnsupportedError("torch.onnx returned no program")
    _rename_collisions(converted.model, {*profile.inputs.names, *profile.outputs.names})
    model = converted.model_proto
    if (size := model.ByteSize()) > _ONE_FILE_BYTES:
        raise UnsupportedError(f"the ONNX model has {size:,} bytes; one file holds at most {_ONE_FILE_BYTES:,}")
    _name_axes(model, profile)
    path.write_bytes(model.SerializeToString())


def _rename_collisions(model: Any, taken: set[str]) -> None:
    """Give values inside the graph another name where they bear that of an input or output."""
    used = {value.name for node in model.graph.all_nodes() for value in node.outputs}
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name in taken and not value.is_graph_output():
                name = next(name for i in itertools.count() if (name := f"{value.name}_inner_{i}") not in used)
                used.add(name)
                value.name = name


def _name_axes(model: Any, profile: WorkloadProfile) -> None:
    """Check the names of the graph's inputs and outputs and give its symbols readable ones."""
    graph = model.graph
    del graph.value_info[:]  # the runtimes infer the shapes of intermediate values again, under the new names
    symbols: dict[str, str] = {}
    for values, specs in ((graph.input, profile.inputs.tensors), (graph.output, profile.outputs.tensors)):
        if (found := [value.name for value in values]) != (wanted := [spec.name for spec in specs]):
            raise UnsupportedError(f"the ONNX graph names its tensors {found}, the model {wanted}")
        for value in values:
            for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
                if dimension.dim_param:
                    name = BATCH if axis == 0 else f"{value.name}_{axis}"
                    dimension.dim_param = symbols.setdefault(dimension.dim_param, name)
