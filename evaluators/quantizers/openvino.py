"""Quantizers in the OpenVINO form, ``model.xml`` and ``model.bin``: float in three widths, and NNCF's static int8."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evaluators.backends.openvino_settings import FLOAT_PRECISION
from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.quantizers.kept_float import FLOAT_SHARE, with_share
from evaluators.quantizers.kept_nodes import kept_tensors, openvino_operators, require_float_openvino
from evaluators.quantizers.traits import (
    BFLOAT16,
    FLOAT16,
    multiplies_bfloat16,
    narrowed_samples,
    samples,
    saturates,
    transformer,
)
from evaluators.sensitivity import KINDS
from evaluators.source import SourceModel
from evaluators.stages.export import positional
from evaluators.target import Target

MODEL = "model.xml"
_BACKENDS = ("openvino",)
_SAMPLES = samples(256)
_SMOOTH_QUANT = Choice(
    "smooth_quant", (0.95, 0.5, 0.0), 0.95, "how much of an activation's range moves to weights (SmoothQuant); 0: none"
)
_NNCF_DEVICES = {"cpu": "ANY", "xpu": "GPU", "npu": "NPU"}


class _OpenVino(Quantizer):
    """What all schemes have in common: an NPU takes inputs of one shape only."""

    backends: ClassVar[tuple[str, ...]] = _BACKENDS

    def refuse(self, profile: WorkloadProfile, target: Target) -> str | None:
        if target.device == "npu" and profile.inputs.varies:
            return "an NPU takes inputs of one shape only, and those of the model vary"
        return super().refuse(profile, target)


class OpenVinoFloat32(_OpenVino):
    """The float model as it was exported. NPUs have no float32."""

    scheme: ClassVar[str] = "fp32"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "xpu")

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _save(_converted(source), folder)


class OpenVinoFloat16(_OpenVino):
    """Computed and stored in float16."""

    scheme: ClassVar[str] = "fp16"
    needs: ClassVar[tuple[str, ...]] = FLOAT16

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _save(_converted(source), folder, half=True)

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        return target.device != "cpu"


class OpenVinoBfloat16(_OpenVino):
    """Computed in bfloat16; weights are stored in float16, from which the runtime makes bfloat16 when it loads them."""

    scheme: ClassVar[str] = "bf16"
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    needs: ClassVar[tuple[str, ...]] = BFLOAT16

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        _save(_converted(source), folder, half=True)

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        return multiplies_bfloat16(target)


class OpenVinoStaticInt8(_OpenVino):
    """int8 weights and activations by NNCF; the ranges of the activations come from calibration data."""

    scheme: ClassVar[str] = "static_int8"
    requires: ClassVar[tuple[str, ...]] = ("nncf",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Choice("preset", ("mixed", "performance"), "mixed", "activations with an offset where it helps, or never"),
        Choice("range", ("mean", "minmax", "quantile"), "mean", "how an activation's range is chosen over the batches"),
        _SAMPLES,
        Choice("per_channel", (True, False), True, "one weight scale per output channel instead of per tensor"),
        Choice("bias_correction", ("fast", "none"), "fast", "whether biases make up for the mean error of a layer"),
        _SMOOTH_QUANT,
        FLOAT_SHARE,
        FLOAT_PRECISION,
    )

    def refuse(self, profile: WorkloadProfile, target: Target) -> str | None:
        if target.device != "cpu" and not target.has("int8"):
            return f"{target.name} does not multiply int8"
        return super().refuse(profile, target)

    def parameters_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        """What is not quantized is computed in float32 on processors and in float16 elsewhere, unless there is more."""
        offered = float_precisions(target)
        own: dict[str, Parameter | None] = {_SAMPLES.name: narrowed_samples(_SAMPLES, profile)}
        if not transformer(profile):
            own[_SMOOTH_QUANT.name] = None  # NNCF smooths transformers only
        precision = replace(FLOAT_PRECISION, values=offered, default=offered[0]) if len(offered) > 1 else None
        own[FLOAT_PRECISION.name] = precision
        chosen = (own.get(parameter.name, parameter) for parameter in self.parameters)
        return with_share((parameter for parameter in chosen if parameter is not None), profile, KINDS)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
            QuantizationParameters,
        )
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

        presets = {"mixed": nncf.QuantizationPreset.MIXED, "performance": nncf.QuantizationPreset.PERFORMANCE}
        ranges = {"minmax": Ranges.MINMAX, "mean": Ranges.MEAN_MINMAX, "quantile": Ranges.MEAN_QUANTILE}
        nncf.set_log_level(logging.ERROR)
        whole = values.get("per_channel") is False  # else NNCF chooses for each kind of layer
        with converting("nncf cannot quantize the model"):
            batches = list(_feeds(source, int(values.get(_SAMPLES.name, _SAMPLES.default))))
            model = _converted(source)
            kept = openvino_operators(model, kept_tensors(source, values, KINDS))
            quantized = nncf.quantize(
                model,
                nncf.Dataset(batches),
                preset=presets[str(values["preset"])],
                subset_size=len(batches),
                target_device=nncf.TargetDevice[_NNCF_DEVICES[source.target.device]],
                model_type=nncf.ModelType.TRANSFORMER if transformer(source.profile) else None,
                ignored_scope=nncf.IgnoredScope(names=list(kept.values())) if kept else None,
                advanced_parameters=AdvancedQuantizationParameters(
                    overflow_fix=OverflowFix.FIRST_LAYER if saturates(source.target) else OverflowFix.DISABLE,
                    activations_range_estimator_params=ranges[str(values["range"])],
                    weights_quantization_params=QuantizationParameters(per_channel=False) if whole else None,
                    disable_bias_correction=values.get("bias_correction", "fast") == "none",
                    smooth_quant_alphas=_smoothing(values),
                ),
            )
        if not any(operator.get_type_name() == "FakeQuantize" for operator in quantized.get_ops()):
            raise UnsupportedError("nncf found no operator in the model that it can quantize")
        require_float_openvino(quantized, kept)
        _save(quantized, folder)


def float_precisions(target: Target) -> tuple[str, ...]:
    """Return OpenVINO's words for the floats that a target computes in beside int8, the known-good one first."""
    if target.device == "npu":
        return ("f16",)
    if target.device == "xpu":
        return ("f16", "f32")
    found = [word for word, needs in (("bf16", BFLOAT16), ("f16", FLOAT16)) if any(target.has(each) for each in needs)]
    return ("f32", *found)


def _converted(source: SourceModel) -> Any:
    """Return the exported model as OpenVINO's own."""
    import openvino

    with converting("openvino cannot convert the model"):
        return openvino.Core().read_model(str(source.onnx()))


def _save(model: Any, folder: Path, *, half: bool = False) -> None:
    import openvino

    openvino.save_model(model, str(folder / MODEL), compress_to_fp16=half)


def _smoothing(values: dict[str, Scalar]) -> Any:
    """Return NNCF's own share of smoothing, or the one asked for; -1 is its word for none."""
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters

    if _SMOOTH_QUANT.name not in values:
        return AdvancedSmoothQuantParameters()
    return AdvancedSmoothQuantParameters(matmul=float(values[_SMOOTH_QUANT.name]) or -1)


def _feeds(source: SourceModel, limit: int) -> Any:
    inputs = source.profile.inputs
    for batch in source.calibration(limit=limit):
        yield dict(zip(inputs.names, (np.asarray(tensor) for tensor in positional(batch, inputs)), strict=True))
