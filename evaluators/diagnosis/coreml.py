"""What a Core ML package holds, operation by operation, and where Core ML plans to run it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators.diagnosis.executed import Executed, precision_of, summarize
from evaluators.outcome import Diagnosis
from evaluators.quantizers.coreml import Recipe

PROGRAM = Path("Data/com.apple.CoreML/model.mlmodel")
WEIGHTS = Path("Data/com.apple.CoreML/weights/weight.bin")

_KINDS = {
    "conv": "convolution", "conv_transpose": "convolution", "conv_quantized": "convolution",
    "linear": "linear", "lstm": "recurrent", "gru": "recurrent", "rnn": "recurrent",
    "scaled_dot_product_attention": "attention", "gather": "embedding", "quantize": "quantize",
    "dequantize": "dequantize", "cast": "reorder", "transpose": "reorder",
}  # fmt: skip
_FLOATS = ("fp32", "fp16")


@dataclass(frozen=True)
class Stored:
    """One tensor in the package: how its values are stored, how many there are, and along how many axes.

    ``precision`` is ``fp32``, ``fp16``, ``int8``, … or ``palettized4`` with the bits of an index.
    """

    precision: str
    elements: int
    axes: int

    @property
    def compressible(self) -> bool:
        """Whether coremltools stores it in fewer bits: a bias, with its one axis, always stays float."""
        from evaluators.backends.coreml_package import LARGEST_UNCOMPRESSED

        return self.axes > 1 and self.elements > LARGEST_UNCOMPRESSED


@dataclass(frozen=True)
class Operation:
    """One operation of the program: its type, the type of its first output, and what it reads from the package."""

    type: str
    name: str
    precision: str
    reads: tuple[Stored, ...]

    @property
    def kind(self) -> str:
        """Our word for its type; a ``matmul`` with a stored factor is ``linear``."""
        if self.type == "matmul":
            return "linear" if self.reads else "matmul"
        return _KINDS.get(self.type, self.type)


@dataclass(frozen=True)
class Package:
    """The operations that compute, in their order, and the bytes of the file with the weights."""

    operations: tuple[Operation, ...]
    weight_bytes: int

    def stored(self) -> tuple[Stored, ...]:
        """Return what all operations read from the package."""
        return tuple(tensor for operation in self.operations for tensor in operation.reads)

    def count(self, kind: str) -> int:
        """Return the number of operations of one kind."""
        return sum(operation.kind == kind for operation in self.operations)


def read_package(path: Path) -> Package:
    """Read the program of an ``.mlpackage``; works on any system."""
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    spec.ParseFromString((path / PROGRAM).read_bytes())
    function = spec.mlProgram.functions["main"]
    operations = read_operations(function.block_specializations[function.opset].operations)
    weights = path / WEIGHTS
    return Package(operations, weights.stat().st_size if weights.exists() else 0)


def read_operations(operations: Sequence[Any]) -> tuple[Operation, ...]:
    """Return what computes in a block of an ML program, each with the stored tensors that it reads."""
    stored = {}
    found = []
    for operation in operations:
        output = operation.outputs[0]
        if operation.type == "const" or operation.type.startswith("constexpr_"):
            stored[output.name] = _stored(operation)
            continue
        names = [argument.name for value in operation.inputs.values() for argument in value.arguments]
        reads = tuple(stored[name] for name in names if name in stored and stored[name].elements > 1)
        found.append(Operation(operation.type, output.name, _precision(output.type), reads))
    return tuple(found)


def refuse_package(package: Package, needed: Mapping[str, int], recipe: Recipe) -> str | None:
    """Return why a package is not what was asked for, or None: every layer in it, every weight as the recipe says.

    ``needed`` are the operators of the float model by kind.
    """
    for kind, count in needed.items():
        if (there := package.count(kind)) < count:
            return f"the Core ML program has {there} operations of kind {kind}, and the model has {count}"
    wanted = stored_precision(recipe)
    for operation in package.operations:
        for tensor in operation.reads:
            weight = operation.kind in needed and tensor.compressible
            if tensor.precision in _FLOATS and tensor.precision != wanted and (weight or recipe.weights == "float"):
                return (
                    f"{operation.type} {operation.name} has a weight of {tensor.elements} elements in "
                    f"{tensor.precision}, and {wanted} was asked for"
                )
    return None


def stored_precision(recipe: Recipe) -> str:
    """Return how weights are to be stored."""
    if recipe.weights == "float":
        return recipe.compute
    return recipe.weights if recipe.bits is None else f"{recipe.weights}{recipe.bits}"


def diagnosis(package: Package, planned: Sequence[tuple[str, str, float | None]], scheme: str) -> Diagnosis:
    """Return the diagnosis: the operations in their precision, and the units that Core ML plans to run them on.

    ``planned`` is (type, unit, share of the estimated cost) of each operation, as ``planned_units`` reads it.
    """
    executed = [Executed(item.kind, item.precision) for item in package.operations]
    units = Counter(unit for _, unit, _ in planned)
    cost = dict.fromkeys(units, 0.0)
    for _, unit, share in planned:
        cost[unit] += share or 0.0
    whole = sum(cost.values())
    notes = [
        f"Core ML plans {count} of {len(planned)} operations on {unit}"
        + (f", {cost[unit] / whole:.0%} of the estimated cost" if whole else "")
        for unit, count in units.most_common()
    ]
    elsewhere = Counter(name for name, unit, _ in planned if unit != "ne")
    if "ne" in units and elsewhere:
        listed = ", ".join(f"{name} ({count})" for name, count in elsewhere.most_common(8))
        notes.append(f"not on the Neural Engine: {listed}")
    formats = Counter(tensor.precision for tensor in package.stored() if tensor.elements >= 2)
    notes.append("tensors stored as " + ", ".join(f"{name} ({count})" for name, count in formats.most_common()))
    return summarize(executed, scheme, asked=(), notes=notes)


def _stored(operation: Any) -> Stored:
    sizes = _sizes(operation.outputs[0].type)
    return Stored(_stored_as(operation), math.prod(sizes), len(sizes))


def _stored_as(operation: Any) -> str:
    """Return how the values of a constant or of a decompressing operation are stored."""
    if operation.type == "const":
        return _precision(operation.outputs[0].type)
    values = {**_attributes(operation), **_immediate(operation)}
    if operation.type == "constexpr_lut_to_dense":
        table = _sizes(values["lut"])
        entries = table[0] if len(table) == 1 else table[-2]  # before iOS 18 one axis; since then (…, entries, width)
        return f"palettized{int(math.log2(entries))}"
    data = values.get("quantized_data", values.get("data"))
    return str(operation.type) if data is None else _precision(data)


def _attributes(operation: Any) -> dict[str, Any]:
    return {name: value.type for name, value in operation.attributes.items()}


def _immediate(operation: Any) -> dict[str, Any]:
    """Return the types of the inputs that are values and no names."""
    return {
        name: value.arguments[0].value.type
        for name, value in operation.inputs.items()
        if value.arguments and value.arguments[0].WhichOneof("binding") == "value"
    }


def _sizes(value_type: Any) -> list[int]:
    return [dimension.constant.size for dimension in value_type.tensorType.dimensions]


def _precision(value_type: Any) -> str:
    from coremltools.proto import MIL_pb2

    if value_type.WhichOneof("type") != "tensorType":
        return str(value_type.WhichOneof("type"))
    name = MIL_pb2.DataType.Name(value_type.tensorType.dataType).lower()
    return precision_of({"float16": "fp16", "float32": "fp32"}.get(name, name))
