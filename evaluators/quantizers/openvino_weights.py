"""Quantizers in the OpenVINO form that quantize weights only: NNCF's compression to int8 and int4."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.parameters import Choice, Parameter
from evaluators.quantizers.openvino import _converted, _OpenVino, _save
from evaluators.quantizers.torch_weights import GROUP_SIZE
from evaluators.quantizers.weight_only import WeightOnly
from evaluators.source import SourceModel

_SYMMETRIC = Choice("symmetric", (False, True), False, "weights with zero in the middle of their range")


class OpenVinoWeightInt8(WeightOnly, _OpenVino):
    """int8 weights of matrix products and tables, a scale for each output. Needs no calibration."""

    scheme: ClassVar[str] = "weight_int8"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "xpu")
    requires: ClassVar[tuple[str, ...]] = ("nncf",)
    parameters: ClassVar[tuple[Parameter, ...]] = (_SYMMETRIC,)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        import nncf

        modes = nncf.CompressWeightsMode
        _compress(source, folder, mode=modes.INT8_SYM if values["symmetric"] is True else modes.INT8_ASYM)


class OpenVinoWeightInt4(OpenVinoWeightInt8):
    """int4 weights of matrix products, a scale for each group of inputs; the last layer and tables in int8."""

    scheme: ClassVar[str] = "weight_int4"
    parameters: ClassVar[tuple[Parameter, ...]] = (GROUP_SIZE, _SYMMETRIC)

    def quantize(self, source: SourceModel, values: dict[str, Scalar], folder: Path) -> None:
        import nncf
        from nncf.quantization.advanced_parameters import AdvancedCompressionParameters, GroupSizeFallbackMode

        modes = nncf.CompressWeightsMode
        _compress(
            source,
            folder,
            mode=modes.INT4_SYM if values["symmetric"] is True else modes.INT4_ASYM,
            group_size=int(values["group_size"]),
            ratio=1.0,
            advanced_parameters=AdvancedCompressionParameters(group_size_fallback_mode=GroupSizeFallbackMode.ADJUST),
        )


def _compress(source: SourceModel, folder: Path, **options: Any) -> None:
    """Write the model with its weights compressed.

    Raises:
        UnsupportedError: nncf found no weight that it can compress.
    """
    import nncf

    nncf.set_log_level(logging.ERROR)
    with converting("nncf cannot compress the model's weights"):
        compressed = nncf.compress_weights(_converted(source), **options)
    stored = [each.get_element_type().get_type_name() for each in compressed.get_ops() if _is_constant_matrix(each)]
    if not any(name in ("i8", "u8", "i4", "u4") for name in stored):
        raise UnsupportedError("nncf found no weights in the model that it can compress")
    _save(compressed, folder)


def _is_constant_matrix(operator: Any) -> bool:
    return bool(operator.get_type_name() == "Constant" and len(operator.get_output_shape(0)) > 1)
