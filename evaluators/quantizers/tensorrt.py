"""Quantizers in the exported form for TensorRT, ``exported.pt2``: float in several precisions, int8 and fp8.

The engine's precision is that of the graph: half precision is put in by Torch-TensorRT's autocast in the build, int8
and fp8 by the quantize operators of NVIDIA's modelopt, which are the only ones that Torch-TensorRT converts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.libraries import converting
from evaluators.quantizers.base import Quantizer
from evaluators.source import SourceModel
from evaluators.stages.export import export_program
from evaluators.structure import call

PROGRAM = "exported.pt2"
_BACKENDS = ("tensorrt",)
_MOST_EXAMPLES = 256


class _ForTensorRt(Quantizer):
    """A scheme whose precision is put in by the build, unless it says otherwise."""

    backends: ClassVar[tuple[str, ...]] = _BACKENDS

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        shutil.copyfile(source.exported(), folder / PROGRAM)


class TensorRtFloat32(_ForTensorRt):
    """The float model as it was exported, with IEEE float32 products."""

    scheme: ClassVar[str] = "fp32"


class TensorRtTensorFloat32(_ForTensorRt):
    """The float model; products of float32 are computed with 10 bits of mantissa on the matrix units."""

    scheme: ClassVar[str] = "tf32"
    needs: ClassVar[tuple[str, ...]] = ("tf32",)


class TensorRtFloat16(_ForTensorRt):
    """float16 where it is safe; operators with large outputs, and inputs and outputs, stay float32."""

    scheme: ClassVar[str] = "fp16"
    needs: ClassVar[tuple[str, ...]] = ("fp16",)


class TensorRtBfloat16(_ForTensorRt):
    """bfloat16 where it is safe; inputs and outputs stay float32."""

    scheme: ClassVar[str] = "bf16"
    needs: ClassVar[tuple[str, ...]] = ("bf16",)


class TensorRtStaticInt8(_ForTensorRt):
    """int8 weights and activations of matrix products and convolutions; modelopt finds ranges on calibration data."""

    scheme: ClassVar[str] = "static_int8"
    requires: ClassVar[tuple[str, ...]] = ("nvidia-modelopt",)
    needs: ClassVar[tuple[str, ...]] = ("int8",)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _quantize(source, folder, "INT8_DEFAULT_CFG")


class TensorRtStaticFloat8(_ForTensorRt):
    """fp8 (E4M3) weights and activations of matrix products and convolutions; ranges from calibration data."""

    scheme: ClassVar[str] = "static_fp8"
    requires: ClassVar[tuple[str, ...]] = ("nvidia-modelopt",)
    needs: ClassVar[tuple[str, ...]] = ("fp8",)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _quantize(source, folder, "FP8_DEFAULT_CFG")


def _quantize(source: SourceModel, folder: Path, configuration: str) -> None:
    """Put modelopt's quantize operators into the model and export it with them."""
    import torch

    module = source.module()
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
