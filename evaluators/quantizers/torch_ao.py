"""torchao on CUDA: matrix products of linear layers in int8 or fp8, their inputs quantized at every call."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from evaluators.errors import UnsupportedError
from evaluators.profile import WorkloadProfile
from evaluators.target import Target

if TYPE_CHECKING:
    from torch import nn

TORCHAO = "torchao"
MULTIPLES = {"dynamic_int8": 8, "dynamic_fp8": 16}
"""What the widths of a layer must be multiples of, by scheme: cuBLAS takes no others (cublasLtMatmul's data layout)."""


def refuse_dynamic(feature: str, profile: WorkloadProfile, target: Target) -> str | None:
    """Return why linear layers cannot be computed in ``int8`` or ``fp8`` on ``target``, or None if they can."""
    if not target.has(feature):
        return f"{target.name} has no {feature} matrix units"
    try:
        metadata.version(TORCHAO)
    except metadata.PackageNotFoundError:
        return f"{TORCHAO} is not installed: pip install {TORCHAO}"
    if "Linear" not in profile.layers:
        return "torchao quantizes Linear layers, and the model has none"
    return None


def quantize_dynamically(module: nn.Module, scheme: str) -> nn.Module:
    """Quantize the linear layers of ``module`` in place: a scale for each row of activations and each output channel.

    Raises:
        UnsupportedError: no layer has widths that the kernels take.
    """
    from torchao.quantization import quantize_

    chosen = [name for name, layer in module.named_modules() if fits(layer, scheme)]
    if not chosen:
        raise UnsupportedError(
            f"no Linear layer of the model has widths that are multiples of {MULTIPLES[scheme]}, as {scheme} needs them"
        )
    quantize_(module, _configuration(scheme), filter_fn=lambda layer, name: name in chosen)
    return module


def fits(layer: Any, scheme: str) -> bool:
    """Whether a layer is linear with widths that the kernels of ``scheme`` take."""
    from torch import nn

    multiple = MULTIPLES[scheme]
    # A subclass may do anything in its forward, as that of MultiheadAttention does not call it at all.
    return type(layer) is nn.Linear and not (layer.in_features % multiple or layer.out_features % multiple)


def _configuration(scheme: str) -> Any:
    from torchao.quantization import (
        Float8DynamicActivationFloat8WeightConfig,
        Int8DynamicActivationInt8WeightConfig,
        PerRow,
    )

    if scheme == "dynamic_int8":
        return Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    if scheme == "dynamic_fp8":
        return Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    raise UnsupportedError(f"torchao is not used for {scheme!r}")
