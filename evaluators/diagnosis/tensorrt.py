"""What of a model became TensorRT engines, and what falls back to PyTorch."""

from __future__ import annotations

from collections import Counter
from typing import Any

from evaluators.diagnosis.executed import Executed, summarize
from evaluators.frozen import Frozen
from evaluators.outcome import Diagnosis

_KINDS = {
    "conv1d": "convolution", "conv2d": "convolution", "conv3d": "convolution", "convolution": "convolution",
    "conv_transpose2d": "convolution", "linear": "linear", "addmm": "linear", "mm": "matmul", "matmul": "matmul",
    "bmm": "matmul", "scaled_dot_product_attention": "attention", "lstm": "recurrent", "gru": "recurrent",
}  # fmt: skip
_PRECISIONS = {"static_int8": "int8", "static_fp8": "fp8", "fp16": "fp16", "bf16": "bf16"}


class Partition(Frozen):
    """How Torch-TensorRT divided a graph.

    Attributes:
        operators: of the exported model, by name.
        fallback: operators that PyTorch executes, by name.
        engines: number of TensorRT engines.
    """

    operators: dict[str, int]
    fallback: dict[str, int]
    engines: int

    @property
    def fallback_share(self) -> float:
        """Operators that PyTorch executes, as a share of those of the exported model; at most 1."""
        return min(1.0, sum(self.fallback.values()) / max(1, sum(self.operators.values())))


def partition(program: Any, compiled: Any) -> Partition:
    """Read how a program was divided: ``compiled`` is the graph that ``torch_tensorrt.dynamo.compile`` returned.

    Engines are submodules of it; whatever else it calls, itself or in other submodules, is PyTorch's.
    """
    engines = 0
    fallback: Counter[str] = Counter()
    parts = dict(compiled.named_children())
    for node in compiled.graph.nodes:
        if node.op == "call_module" and not hasattr(part := parts[node.target], "graph"):
            engines += 1
        elif node.op == "call_module":
            fallback += called(part)
        elif node.op == "call_function" and str(node.target).startswith(("tensorrt.", "<OpOverload(op='tensorrt")):
            engines += 1
    fallback += called(compiled)
    return Partition(operators=dict(called(program)), fallback=dict(fallback), engines=engines)


def called(graph_module: Any) -> Counter[str]:
    """Count the ATen operators that a graph calls, by their bare names."""
    return Counter(
        str(node.target).removeprefix("aten.").partition(".")[0]
        for node in graph_module.graph.nodes
        if node.op == "call_function" and str(node.target).startswith("aten.")
    )


def refuse_partition(found: Partition, most_fallback: float) -> str | None:
    """Return why a model that was divided so is not one for TensorRT, or None."""
    listed = ", ".join(f"{name} ({count})" for name, count in Counter(found.fallback).most_common(8))
    if not found.engines:
        return f"TensorRT takes no part of the model; all falls back to PyTorch: {listed}"
    if found.fallback_share > most_fallback:
        return (
            f"{sum(found.fallback.values())} operators of {sum(found.operators.values())} "
            f"({found.fallback_share:.0%}) fall back to PyTorch, at most {most_fallback:.0%} may: {listed}"
        )
    return None


def diagnosis(found: Partition, scheme: str) -> Diagnosis:
    """Return the diagnosis: the model's operators, those that fall back in float32, and how many engines there are."""
    precision = _PRECISIONS.get(scheme, "fp32")
    executed = []
    for name, count in found.operators.items():
        kind = _KINDS.get(name, name)
        outside = min(count, found.fallback.get(name, 0))
        executed += [Executed(kind, "fp32", "pytorch")] * outside
        executed += [Executed(kind, precision, "tensorrt")] * (count - outside)
    notes = [
        f"{found.engines} TensorRT engine(s); {sum(found.fallback.values())} operators "
        f"({found.fallback_share:.0%}) fall back to PyTorch",
        "precisions are those asked for: TensorRT does not tell what its kernels compute in",
    ]
    return summarize(executed, scheme, notes=notes)
