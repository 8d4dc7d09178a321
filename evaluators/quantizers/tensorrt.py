"""Quantizers in the exported form for TensorRT, ``exported.pt2``: float in several precisions, int8 and fp8.

The engine's precision is that of the graph: half precision is put in by Torch-TensorRT's autocast in the build, int8
and fp8 by the quantize operators of NVIDIA's modelopt, which are the only ones that Torch-TensorRT converts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.source import SourceModel
from evaluators.stages.export import export_program
from evaluators.structure import call
from evaluators.target import Target

if TYPE_CHECKING:
    from torch import Tensor, nn

PROGRAM = "exported.pt2"
SPARSE = Choice(
    "sparse_2_4", (False, True), False, "two of four weights set to zero, for the GPU's sparse matrix units"
)
_BACKENDS = ("tensorrt",)
_MOST_EXAMPLES = 256
_GROUP, _KEPT = 4, 2


class TensorRtFloat32(Quantizer):
    """The float model as it was exported, with IEEE float32 products."""

    scheme: ClassVar[str] = "fp32"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        shutil.copyfile(source.exported(), folder / PROGRAM)


class _Sparse(Quantizer):
    """A scheme whose products the GPU's sparse matrix units can compute."""

    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    parameters: ClassVar[tuple[Parameter, ...]] = (SPARSE,)

    def parameters_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        return (SPARSE,) if target.has("sparse_2_4") else ()

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        if not values.get(SPARSE.name):
            shutil.copyfile(source.exported(), folder / PROGRAM)
            return
        _save(_sparsified(source.module()), source, folder)


class TensorRtTensorFloat32(_Sparse):
    """The float model; products of float32 are computed with 10 bits of mantissa on the matrix units."""

    scheme: ClassVar[str] = "tf32"
    needs: ClassVar[tuple[str, ...]] = ("tf32",)


class TensorRtFloat16(_Sparse):
    """float16 where it is safe; operators with large outputs, and inputs and outputs, stay float32."""

    scheme: ClassVar[str] = "fp16"
    needs: ClassVar[tuple[str, ...]] = ("fp16",)


class TensorRtBfloat16(_Sparse):
    """bfloat16 where it is safe; inputs and outputs stay float32."""

    scheme: ClassVar[str] = "bf16"
    needs: ClassVar[tuple[str, ...]] = ("bf16",)


class TensorRtStaticInt8(_Sparse):
    """int8 weights and activations of matrix products and convolutions; modelopt finds ranges on calibration data."""

    scheme: ClassVar[str] = "static_int8"
    requires: ClassVar[tuple[str, ...]] = ("nvidia-modelopt",)
    needs: ClassVar[tuple[str, ...]] = ("int8",)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _quantize(source, folder, "INT8_DEFAULT_CFG", sparse=bool(values.get(SPARSE.name)))


class TensorRtStaticFloat8(_Sparse):
    """fp8 (E4M3) weights and activations of matrix products and convolutions; ranges from calibration data."""

    scheme: ClassVar[str] = "static_fp8"
    requires: ClassVar[tuple[str, ...]] = ("nvidia-modelopt",)
    needs: ClassVar[tuple[str, ...]] = ("fp8",)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _quantize(source, folder, "FP8_DEFAULT_CFG", sparse=bool(values.get(SPARSE.name)))


def sparse_2_4(weight: Tensor) -> Tensor | None:
    """Return a weight with the two smallest of every four input channels set to zero, or None if four do not divide.

    ``weight`` has shape (outputs, inputs, …), as linear layers and convolutions have; the groups run along the inputs,
    as the sparse matrix units take them (Mishra et al. 2021, arXiv:2104.08378).
    """
    import torch

    outputs, inputs = weight.shape[:2]
    if inputs % _GROUP:
        return None
    groups = weight.reshape(outputs, inputs // _GROUP, _GROUP, *weight.shape[2:])
    largest = groups.abs().topk(_KEPT, dim=2).indices
    kept = torch.zeros_like(groups).scatter(2, largest, 1.0)
    return (groups * kept).reshape(weight.shape)


def _sparsified(module: nn.Module) -> nn.Module:
    """Make the weights of linear layers and convolutions 2:4 sparse, in place.

    Raises:
        UnsupportedError: no layer has input channels in fours.
    """
    import torch
    from torch import nn

    changed = 0
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
                sparse = sparse_2_4(layer.weight)
                if sparse is not None:
                    layer.weight.copy_(sparse)
                    changed += 1
    if not changed:
        raise UnsupportedError("sparse_2_4 is set, and no layer's input channels are a multiple of four: leave it out")
    return module


def _quantize(source: SourceModel, folder: Path, configuration: str, *, sparse: bool) -> None:
    """Put modelopt's quantize operators into the model and export it with them."""
    import torch

    module = _sparsified(source.module()) if sparse else source.module()
    with converting("modelopt cannot quantize the model"), torch.no_grad():
        import modelopt.torch.quantization as modelopt
        from modelopt.torch.quantization.utils import export_torch_mode

        def calibrate(model: Any) -> None:
            for batch in source.calibration(limit=_MOST_EXAMPLES):
                call(model, batch)

        quantized = modelopt.quantize(module, getattr(modelopt, configuration), forward_loop=calibrate)
        with export_torch_mode():
            _save(quantized, source, folder)


def _save(module: Any, source: SourceModel, folder: Path) -> None:
    import torch

    example = source.example(source.batch_size or 2)
    torch.export.save(export_program(module, example, source.profile, source.batch_size), folder / PROGRAM)
