"""What an ExecuTorch program executes: operators that a library took, and those left to ExecuTorch's own kernels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from evaluators.diagnosis.executed import CONVERSIONS, Executed, executed_precisions, summarize
from evaluators.diagnosis.instructions import offered_instructions
from evaluators.frozen import Frozen
from evaluators.outcome import Diagnosis
from evaluators.target import Target

_KINDS = {
    "convolution": "convolution", "conv1d": "convolution", "conv2d": "convolution", "linear": "linear",
    "addmm": "linear", "mm": "linear", "bmm": "matmul", "matmul": "matmul", "lstm": "recurrent", "gru": "recurrent",
    "scaled_dot_product_attention": "attention",
}  # fmt: skip
_NO_OPERATORS = ("getitem", "alloc", "executorch_call_delegate")
_NAME = re.compile(r"(?:aten|dim_order_ops|quantized_decomposed|torchao)[.:]+(\w+)")


class Operator(Frozen):
    """One operator of the program: its kind in our words, its precision, and the library that computes it."""

    kind: str
    precision: str
    library: str


class Delegation(Frozen):
    """The operators of a program, in their order."""

    operators: tuple[Operator, ...]

    @property
    def left(self) -> tuple[Operator, ...]:
        """Those that no library took: ExecuTorch's own kernels compute them."""
        return tuple(operator for operator in self.operators if operator.library == "portable")

    @property
    def share_left(self) -> float:
        """The share of operators that no library took."""
        return len(self.left) / len(self.operators) if self.operators else 0.0


def delegation(graph_module: Any) -> Delegation:
    """Read which library computes what in a lowered graph (``EdgeProgramManager.exported_program().graph_module``)."""
    from executorch.exir.lowered_backend_module import get_lowered_submodules

    lowered = {node.name: module for _, module, node in get_lowered_submodules(graph_module)}
    found: list[Operator] = []
    for node in graph_module.graph.nodes:
        if node.name in lowered:
            module = lowered[node.name]
            library = module.backend_id.removesuffix("Backend").lower()
            found += operators(module.original_module.graph.nodes, library)
        else:
            found += operators([node], "portable")
    return Delegation(operators=tuple(found))


def operators(nodes: Iterable[Any], library: str) -> list[Operator]:
    """Return the operators among the nodes of a graph; one that reads what was dequantized is computed in int8."""
    found = []
    for node in nodes:
        name = operator_name(node)
        if node.op != "call_function" or name in _NO_OPERATORS:
            continue
        kind = _KINDS.get(name, name)
        if "quantize_per" in name:  # a library fuses it into its neighbours
            if library == "portable":
                found.append(Operator(kind=name.partition("_")[0], precision="int8", library=library))
            continue
        integer = library != "portable" and any("dequantize" in operator_name(each) for each in node.all_input_nodes)
        found.append(Operator(kind=kind, precision="int8" if integer else "fp32", library=library))
    return found


def operator_name(node: Any) -> str:
    """Return the bare name of what a node calls: ``convolution`` of ``aten.convolution.default``."""
    name = getattr(node.target, "__name__", str(node.target))
    matched = _NAME.search(str(name)) or _NAME.search(str(node.target))
    return matched.group(1) if matched else str(name)


def diagnosis(found: Delegation, scheme: str, target: Target | None = None) -> Diagnosis:
    """Return the diagnosis, with the share of operators that no library took; ``target`` is where they are computed."""
    executed = [Executed(item.kind, item.precision, item.library) for item in found.operators]
    left = Counter(operator.kind for operator in found.left if operator.kind not in CONVERSIONS)
    count, share = len(found.left), found.share_left
    notes = [f"{count} of {len(found.operators)} operators ({share:.0%}) are left to ExecuTorch's own kernels"]
    if left:
        notes[0] += ": " + ", ".join(f"{name} ({count})" for name, count in left.most_common(8))
    asked = ("linear",) if scheme.startswith("dynamic") else ("convolution", "linear")
    if target is not None:
        notes.append("XNNPACK does not tell its kernels' instructions; they are the best that the processor has")
    instructions = None if target is None else offered_instructions(target, executed_precisions(executed))
    return summarize(executed, scheme, asked=asked, instruction_set=instructions, notes=notes)
