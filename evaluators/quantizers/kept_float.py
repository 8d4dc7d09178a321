"""float_share: the layers that int8 costs most stay in float, in torch's own forms of a quantized model.

How a form says so differs, and what it makes of it is looked at again: a layer that was to stay in float and did not
is an error, never a worse model under the same name. The ONNX and OpenVINO forms are in ``kept_nodes``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.sensitivity import kept_count, worst
from evaluators.source import SourceModel

if TYPE_CHECKING:
    from torch import nn
    from torch.fx import GraphModule

FLOAT_SHARE = Choice(
    "float_share", (0.0, 0.1, 0.25, 0.5), 0.0, "share of the layers that stay in float, those that int8 costs most",
    unsaid=0.0,
)  # fmt: skip
FEWEST_LAYERS = 4
"""In a model with fewer than these, one layer is too much of it to be kept in float."""


def with_share(
    parameters: Iterable[Parameter], profile: WorkloadProfile, kinds: Collection[str]
) -> tuple[Parameter, ...]:
    """Return a quantizer's parameters with the shares that keep another number of the model's layers than each other.

    ``kinds`` are the classes of layers that the quantizer puts into int8.
    """
    return tuple(
        narrowed
        for parameter in parameters
        for narrowed in (_shares(profile, kinds) if parameter.name == FLOAT_SHARE.name else (parameter,))
    )


def _shares(profile: WorkloadProfile, kinds: Collection[str]) -> tuple[Choice, ...]:
    layers = sum(count for kind, count in profile.layers.items() if kind in kinds)
    if layers < FEWEST_LAYERS:
        return ()
    by_count: dict[int, Scalar] = {}
    for share in FLOAT_SHARE.values:
        by_count.setdefault(kept_count(float(share), layers), share)
    return (replace(FLOAT_SHARE, values=tuple(by_count.values())),)


def kept_layers(source: SourceModel, values: Mapping[str, Scalar], kinds: Collection[str]) -> tuple[str, ...]:
    """Return the names of the layers that stay in float; none, and nothing measured, at a share of 0."""
    share = float(values.get(FLOAT_SHARE.name, 0.0))
    return worst(source.sensitivity(), kinds, share) if share else ()


def require_float_modules(module: nn.Module, names: Collection[str]) -> None:
    """Refuse a module that FX has quantized where one of these layers is a quantized one.

    Raises:
        UnsupportedError: it is.
    """
    layers = dict(module.named_modules())
    for name in names:
        kind = type(layers[name]) if name in layers else None
        if kind is not None and ".quantized" in kind.__module__:
            raise UnsupportedError(f"layer {name!r} was to stay in float, and torch made it {kind.__name__}")


def exported_name(name: str) -> str:
    """Return the name that a layer of the user's model has in the exported one."""
    return f"model.{name}" if name else "model"


def without_call(path: str) -> str:
    """Return the name of a module as exported, without the number of the call where it is called several times."""
    return path.removeprefix("L['self'].").partition("@")[0]


def exported_paths(program: GraphModule, names: Collection[str]) -> list[str]:
    """Return the paths of these layers in an exported graph, one for each call of a layer."""
    wanted = {exported_name(name) for name in names}
    paths = {_path_of(node) for node in program.graph.nodes}
    return sorted(path for path in paths if without_call(path) in wanted)


def require_float_nodes(program: GraphModule, names: Sequence[str]) -> None:
    """Refuse a converted PT2E graph where one of these layers computes with a quantized weight, or is not found.

    Raises:
        UnsupportedError: it does, or the graph does not tell of which layer its operators are.
    """
    layers = {exported_name(name): name for name in names}
    found = set()
    for node in program.graph.nodes:
        layer = layers.get(without_call(_path_of(node)))
        if layer is None or not _multiplies(node):
            continue
        found.add(layer)
        if any("dequantize" in str(getattr(each, "target", "")) for each in node.args[1:2]):
            raise UnsupportedError(f"layer {layer!r} was to stay in float, and torchao quantized its weight")
    if lost := sorted(set(names) - found):
        raise UnsupportedError(f"layer {lost[0]!r} is to stay in float, and is not found in the exported model")


def _multiplies(node: Any) -> bool:
    return node.op == "call_function" and any(word in str(node.target) for word in ("conv", "linear"))


def _path_of(node: Any) -> str:
    """Return the path of the innermost module that a node was traced from."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]) if stack else ""
