"""Quantizers in the exported form for inductor, ``exported.pt2``: float, 16 bits, static int8 (PT2E), and torchao's."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.quantizers.kept_float import (
    FLOAT_SHARE,
    exported_paths,
    kept_layers,
    require_float_nodes,
    with_share,
)
from evaluators.quantizers.torch_ao import MULTIPLES, TORCHAO, quantize_dynamically, refuse_dynamic
from evaluators.quantizers.torch_recipe import HALVES, half_module
from evaluators.quantizers.traits import (
    BFLOAT16,
    convolutional,
    multiplies_bfloat16,
    narrowed_samples,
    samples,
    saturates,
)
from evaluators.source import SourceModel
from evaluators.stages.export import export_again, export_program, positional
from evaluators.target import Target

PROGRAM = "exported.pt2"
_BACKENDS = ("inductor",)
_KINDS = ("Conv2d", "Linear")
_SAMPLES = samples(128)


class InductorFloat32(Quantizer):
    """The float model as it was exported."""

    scheme: ClassVar[str] = "fp32"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        shutil.copyfile(source.exported(), folder / PROGRAM)


class InductorTensorFloat32(InductorFloat32):
    """The float model; products of float32 are computed with 10 bits of mantissa on the GPU's matrix units."""

    scheme: ClassVar[str] = "tf32"
    needs: ClassVar[tuple[str, ...]] = ("tf32",)


class InductorFloat16(Quantizer):
    """Weights and activations in float16; inputs and outputs stay float32."""

    scheme: ClassVar[str] = "fp16"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    needs: ClassVar[tuple[str, ...]] = ("fp16",)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        import torch

        example = source.example(source.batch_size or 2)
        module = half_module(source.module(), HALVES[self.scheme])
        torch.export.save(export_program(module, example, source.profile, source.batch_size), folder / PROGRAM)


class InductorBfloat16(InductorFloat16):
    """Weights and activations in bfloat16; inputs and outputs stay float32."""

    scheme: ClassVar[str] = "bf16"
    needs: ClassVar[tuple[str, ...]] = BFLOAT16

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        return multiplies_bfloat16(target)


class InductorDynamicInt8(Quantizer):
    """int8 products of linear layers on CUDA (torchao); inputs are quantized at every call. Needs no calibration."""

    scheme: ClassVar[str] = "dynamic_int8"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    requires: ClassVar[tuple[str, ...]] = (TORCHAO,)
    devices: ClassVar[tuple[str, ...]] = ("cuda",)
    feature: ClassVar[str] = "int8"

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        """Between convolutions there is little to quantize, and scales found anew for each call cost time."""
        return not convolutional(profile)

    def refuse(self, profile: WorkloadProfile, target: Target) -> str | None:
        return super().refuse(profile, target) or refuse_dynamic(self.feature, profile, target)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        import torch

        device = source.target.device  # what torchao computes with depends on where the weights are
        with converting("torchao cannot quantize the model"), torch.no_grad():
            module = quantize_dynamically(source.module().to(device), self.scheme)
            example = tree_map_to(source.example(source.batch_size or 2), device)
        torch.export.save(export_program(module, example, source.profile, source.batch_size), folder / PROGRAM)


class InductorDynamicFloat8(InductorDynamicInt8):
    """fp8 products of linear layers on CUDA (torchao); inputs are quantized at every call. Needs no calibration."""

    scheme: ClassVar[str] = "dynamic_fp8"
    feature: ClassVar[str] = "fp8"


class InductorStaticInt8(Quantizer):
    """int8 weights and activations of matrix products, convolutions and what lies between them (PT2E)."""

    scheme: ClassVar[str] = "static_int8"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    requires: ClassVar[tuple[str, ...]] = (TORCHAO,)
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    needs: ClassVar[tuple[str, ...]] = ("avx512f", "avx2")
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Choice("calibration", ("histogram", "minmax"), "histogram", "how an activation's range is chosen"),
        _SAMPLES,
        Choice("reduce_range", (True, False), True, "7-bit activations, for processors whose 8-bit products saturate"),
        FLOAT_SHARE,
    )

    def parameters_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        left_out = set() if saturates(target) else {"reduce_range"}
        counts = narrowed_samples(_SAMPLES, profile)
        offered = (counts if parameter is _SAMPLES else parameter for parameter in self.parameters)
        left = (item for item in offered if item is not None and item.name not in left_out)
        return with_share(left, profile, _KINDS)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        import torch

        calibration = str(values["calibration"])
        inputs = source.profile.inputs
        kept = kept_layers(source, values, _KINDS)
        with converting("torchao cannot quantize the exported model"), torch.no_grad():
            from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
            from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

            module = _with_int8_tables(source).module()
            quantizer = X86InductorQuantizer()
            quantizer.set_global(_configuration(calibration, bool(values.get("reduce_range", False))))
            for path in exported_paths(module, kept):
                quantizer.set_module_name_qconfig(path.removeprefix("L['self']."), None)
            prepared = prepare_pt2e(module, quantizer)
            for batch in source.calibration(limit=int(values.get(_SAMPLES.name, _SAMPLES.default))):
                prepared(*positional(batch, inputs))
            converted = convert_pt2e(prepared)
        require_float_nodes(converted, kept)
        if not any("quantize_per_tensor" in str(node.target) for node in converted.graph.nodes):
            raise UnsupportedError("torchao found no operator in the model that it can quantize")
        example = source.example(source.batch_size or 2)
        torch.export.save(export_again(converted, example, source.profile, source.batch_size), folder / PROGRAM)


def read_program(folder: Path, scheme: str) -> Any:
    """Read ``exported.pt2`` with the operators and types that quantization to ``scheme`` puts into it."""
    import torch
    from torch.ao.quantization.fx import _decomposed  # noqa: F401 - registers quantized_decomposed::*

    with converting("torch cannot read the exported model"):
        if scheme in MULTIPLES:
            importlib.import_module("torchao.quantization")
        return torch.export.load(folder / PROGRAM)


def tree_map_to(inputs: Any, device: str) -> Any:
    """Return a batch in the user's own structure with its tensors on ``device``."""
    import torch
    from torch.utils._pytree import tree_map_only

    return tree_map_only(torch.Tensor, lambda tensor: tensor.to(device), inputs)


def _with_int8_tables(source: SourceModel) -> Any:
    """Return the exported model; embeddings, which PT2E leaves in float, have their tables in int8."""
    import torch

    if "Embedding" not in source.profile.layers:
        return torch.export.load(source.exported())
    from evaluators.quantizers.weight_layers import with_int8_tables

    example = source.example(source.batch_size or 2)
    return export_program(with_int8_tables(source.module()), example, source.profile, source.batch_size)


def _configuration(calibration: str, reduce_range: bool) -> Any:
    """Return the quantizer's default configuration with the observer asked for."""
    from dataclasses import replace

    from torchao.quantization.pt2e.observer import HistogramObserver, MinMaxObserver
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import get_default_x86_inductor_quantization_config

    default = get_default_x86_inductor_quantization_config(reduce_range=reduce_range)
    observer = {"histogram": HistogramObserver, "minmax": MinMaxObserver}[calibration].with_args(eps=2**-12)
    activation = replace(default.input_activation, observer_or_fake_quant_ctr=observer)
    return replace(default, input_activation=activation, output_activation=activation)
