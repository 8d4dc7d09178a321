"""Quantizers in the ONNX form: ``model.onnx`` as float, with dynamic int8 and with static int8."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.parameters import Choice, Parameter
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.base import Quantizer
from evaluators.quantizers.kept_float import FLOAT_SHARE, with_share
from evaluators.quantizers.kept_nodes import kept_tensors, nodes_to_exclude, read_graph, require_float_onnx
from evaluators.quantizers.onnx_smooth import smooth
from evaluators.quantizers.onnx_weights import store_tables_in_int8
from evaluators.quantizers.traits import convolutional, narrowed_samples, samples, saturates, transformer
from evaluators.sensitivity import CONVOLUTIONS
from evaluators.source import SourceModel
from evaluators.stages.export import positional
from evaluators.target import Target

MODEL = "model.onnx"
_BACKENDS = ("onnxruntime",)
_COMPUTE = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_KINDS = (*CONVOLUTIONS, "Linear")
_SAMPLES = samples(256)
_SMOOTH_QUANT = Choice(
    "smooth_quant", (0.0, 0.5), 0.0, "how much of an activation's range moves to weights (SmoothQuant); 0: none"
)

_PER_CHANNEL = Choice("per_channel", (True, False), True, "one weight scale per output channel instead of per tensor")
_ACTIVATION_TYPE = Choice(
    "activation_type", ("quint8", "qint8"), "quint8", "x86 kernels are fast for unsigned, ARM's for signed"
)
_REDUCE_RANGE = Choice(
    "reduce_range", (True, False), True, "weights in 7 bits, for processors whose 8-bit products saturate"
)


class OnnxFloat32(Quantizer):
    """The float model as it was exported."""

    scheme: ClassVar[str] = "fp32"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        shutil.copyfile(source.onnx(), folder / MODEL)


class OnnxTensorFloat32(OnnxFloat32):
    """The float model; products of float32 are computed with 10 bits of mantissa on the GPU's matrix units."""

    scheme: ClassVar[str] = "tf32"
    needs: ClassVar[tuple[str, ...]] = ("tf32",)


class OnnxFloat16(Quantizer):
    """Weights and activations in float16; inputs and outputs stay float32."""

    scheme: ClassVar[str] = "fp16"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    needs: ClassVar[tuple[str, ...]] = ("fp16",)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        import onnx

        with converting("onnxruntime cannot convert the model to float16"):
            from onnxruntime.transformers.float16 import convert_float_to_float16

            model = convert_float_to_float16(onnx.load(str(source.onnx())), keep_io_types=True)
            (folder / MODEL).write_bytes(model.SerializeToString())


class OnnxDynamicInt8(Quantizer):
    """int8 weights; activations are quantized at every call. Needs no calibration."""

    scheme: ClassVar[str] = "dynamic_int8"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        _PER_CHANNEL,
        Choice("weight_type", ("qint8", "quint8"), "qint8", "signed suits matrix products, unsigned convolutions"),
        _REDUCE_RANGE,
    )

    def known_good(self, profile: WorkloadProfile, target: Target) -> bool:
        """Between convolutions there is little to quantize, and scales found anew for each call cost time."""
        return not convolutional(profile)

    def parameters_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        per_channel, weight_type, reduce_range = self.parameters
        if convolutional(profile) and isinstance(weight_type, Choice):
            weight_type = replace(weight_type, default="quint8")
        return (per_channel, weight_type, *((reduce_range,) if saturates(target) else ()))

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with tempfile.TemporaryDirectory() as scratch, converting("onnxruntime cannot quantize the model dynamically"):
            quantize_dynamic(
                prepared(source, Path(scratch)),
                str(folder / MODEL),
                per_channel=bool(values["per_channel"]),
                reduce_range=bool(values.get("reduce_range", False)),
                weight_type=QuantType.QUInt8 if values["weight_type"] == "quint8" else QuantType.QInt8,
            )
        _require_quantized(folder / MODEL)


class OnnxStaticInt8(Quantizer):
    """int8 weights and activations; the ranges of the activations come from calibration data."""

    scheme: ClassVar[str] = "static_int8"
    backends: ClassVar[tuple[str, ...]] = _BACKENDS
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    parameters: ClassVar[tuple[Parameter, ...]] = (
        Choice("calibration", ("minmax", "entropy", "percentile"), "minmax", "how an activation's range is chosen"),
        _SAMPLES,
        _PER_CHANNEL,
        Choice("symmetric", (False, True), False, "ranges of activations with zero in their middle"),
        _ACTIVATION_TYPE,
        Choice("format", ("qdq", "qoperator"), "qdq", "how int8 operators are written, which decides what is fused"),
        Choice("operators", ("all", "compute"), "all", "what runs in int8: all, or matrix products and convolutions"),
        _SMOOTH_QUANT,
        _REDUCE_RANGE,
        FLOAT_SHARE,
    )

    def parameters_for(self, profile: WorkloadProfile, target: Target) -> tuple[Parameter, ...]:
        left_out = set() if saturates(target) else {"reduce_range"}
        # For the first two see _of_transformer; only a transformer has layer normalizations before its products.
        left_out |= {"operators", "format"} if transformer(profile) else {_SMOOTH_QUANT.name}
        if (counts := narrowed_samples(_SAMPLES, profile)) is None:
            left_out.add(_SAMPLES.name)
        own = {_SAMPLES.name: counts}
        if target.has("neon"):
            own["activation_type"] = replace(_ACTIVATION_TYPE, default="qint8")
        left = (own.get(item.name) or item for item in self.parameters if item.name not in left_out)
        return with_share(left, profile, _KINDS)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        calibration = str(values["calibration"])
        methods = {
            "minmax": CalibrationMethod.MinMax,
            "entropy": CalibrationMethod.Entropy,
            "percentile": CalibrationMethod.Percentile,
        }
        batches = _feeds(source, int(values.get(_SAMPLES.name, _SAMPLES.default)))
        kept = kept_tensors(source, values, _KINDS)
        with tempfile.TemporaryDirectory() as scratch, converting("onnxruntime cannot quantize the model statically"):
            floats = prepared(source, Path(scratch))
            if alpha := float(values.get(_SMOOTH_QUANT.name, 0.0)):
                smooth(Path(floats), batches, alpha)
            kept_float, options = _of_transformer(floats) if transformer(source.profile) else ([], {})
            kept_float += nodes_to_exclude(read_graph(Path(floats)), kept) if kept else []
            quantize_static(
                floats,
                str(folder / MODEL),
                _reader(batches),
                quant_format=QuantFormat.QOperator if values.get("format") == "qoperator" else QuantFormat.QDQ,
                op_types_to_quantize=list(_COMPUTE) if values.get("operators") != "all" else None,
                nodes_to_exclude=kept_float,
                per_channel=bool(values["per_channel"]),
                reduce_range=bool(values.get("reduce_range", False)),
                activation_type=QuantType.QInt8 if values["activation_type"] == "qint8" else QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=methods[calibration],
                extra_options={
                    "CalibStridedMinMax": 1,  # one batch in memory at a time; also lets their shapes differ
                    "CalibTensorRangeSymmetric": False,
                    "ActivationSymmetric": values.get("symmetric") is True,
                    "CalibPercentile": 99.99,
                    **options,
                },
            )
        _require_quantized(folder / MODEL)
        require_float_onnx(folder / MODEL, kept)
        _shrink_tables(folder / MODEL)


def prepared(source: SourceModel, scratch: Path) -> str:
    """Write the float model with its shapes inferred and its operators fused, as onnxruntime's quantizers want it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = scratch / "prepared.onnx"
    # Symbolic shape inference fails on the masks of attention, and quantization does not need it.
    quant_pre_process(str(source.onnx()), str(path), skip_symbolic_shape=True)
    return str(path)


def _of_transformer(prepared: str) -> tuple[list[str], dict[str, Any]]:
    """Return the nodes of a transformer that stay float and onnxruntime's options for the others.

    Only products with weights run in int8, and their results stay float: normalization, softmax, masks of -inf and
    products of two activations lose up to 20 dB in int8 and gain no time.
    """
    import onnx

    graph = onnx.load(prepared).graph
    weights = {tensor.name for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul" and not weights.intersection(node.input)]
    return [node.name for node in products], {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}


def _feeds(source: SourceModel, limit: int) -> list[dict[str, np.ndarray]]:
    """Return the calibration batches as the runtime takes them."""
    inputs = source.profile.inputs
    return [
        dict(zip(inputs.names, (np.asarray(tensor) for tensor in positional(batch, inputs)), strict=True))
        for batch in source.calibration(limit=limit)
    ]


def _reader(batches: Sequence[dict[str, np.ndarray]]) -> Any:
    """Return what onnxruntime reads calibration batches from."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.set_range(0, len(batches))

        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._left = iter(batches[start_index:end_index])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    return Reader()


def _shrink_tables(path: Path) -> None:
    """Store tables that are looked up in int8, which static quantization leaves in float."""
    import onnx

    model = onnx.load(str(path))
    if store_tables_in_int8(model):
        path.write_bytes(model.SerializeToString())


def _require_quantized(path: Path) -> None:
    """Refuse a result in which nothing was quantized.

    Raises:
        UnsupportedError: no operator of the graph is a quantized one.
    """
    import onnx

    operators = {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}
    quantized = ("QLinear", "Quantize", "DynamicQuantize", "ConvInteger", "MatMulInteger")
    if not any(name.startswith(quantized) for name in operators):
        raise UnsupportedError("onnxruntime found no operator in the model that it can quantize")
