"""The recipe of a quantized module: JSON that turns the float module into the quantized one, the same at every load.

An eager bundle holds the weights and this recipe, and no pickled module. Of activations what calibration found is
stored. Weights that int8 computes with are stored as the whole numbers that they become (``stages.packed``), and
quantizing them again gives the same ones every time.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.errors import UnsupportedError
from evaluators.libraries import converting
from evaluators.quantizers.torch_ao import TORCHAO, quantize_dynamically
from evaluators.quantizers.torch_weights import BITS, grains_of, quantize_weights
from evaluators.stages.packed import Grain, pack
from evaluators.structure import Structure, call

if TYPE_CHECKING:
    from torch import nn

RECIPE = "quantization.json"
_MODEL_FILES = ("plan.json", "weights.safetensors")
FILES = (*_MODEL_FILES, RECIPE)
HALVES = {"fp16": "float16", "bf16": "bfloat16"}
"""The schemes that compute in 16 bits, and torch's names of their type."""
_UNKNOWN_AXIS = 8


@dataclass(frozen=True)
class Recipe:
    """How to quantize a module.

    Attributes:
        scheme: ``fp32``, ``tf32``, ``fp16``, ``bf16``, ``dynamic_int8``, ``dynamic_fp8``, ``static_int8``,
            ``weight_int8`` or ``weight_int4``.
        engine: torch's quantized engine (``x86``, ``fbgemm``, ``qnnpack``), or ``torchao``.
        everything: static only: quantize every operator that can be, not only matrix products and convolutions.
        activations: static only: scale, zero point and range of each observer, by its name in the traced module.
        per_channel: static only: a scale for each output channel of a weight instead of one for all.
        group_size: ``weight_int4`` only: how many inputs of an output have one scale.
        packed: weights lie symmetrically in [-127, 127] and are stored so; bundles from before that say false.
    """

    scheme: str
    engine: str = ""
    everything: bool = False
    activations: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_channel: bool = True
    group_size: int = 0
    packed: bool = False

    def write(self, weights: Path, folder: Path, module: nn.Module | None = None) -> None:
        """Write the recipe beside the plan and the weights, in the bits that are computed with.

        A packed recipe needs the float ``module`` to know which weights those are.

        Raises:
            UnsupportedError: a weight is too large for the scheme.
        """
        for name in _MODEL_FILES:
            shutil.copyfile(weights / name, folder / name)
        if self.scheme in HALVES:
            _halve(folder / _MODEL_FILES[1], HALVES[self.scheme])
        elif self.packed and module is not None:
            _pack(folder / _MODEL_FILES[1], grains_of(module, self.scheme, self.group_size))
        (folder / RECIPE).write_text(json.dumps(asdict(self), sort_keys=True))


def read_recipe(folder: Path) -> Recipe:
    """Read what ``Recipe.write`` wrote."""
    return Recipe(**json.loads((folder / RECIPE).read_text()))


def apply_recipe(recipe: Recipe, module: nn.Module, inputs: Structure) -> nn.Module:
    """Return ``module`` (float, in eval mode) quantized; it may be changed in place.

    Raises:
        UnsupportedError: torch cannot quantize this module so.
    """
    with converting(f"torch cannot quantize the model to {recipe.scheme}"):
        if recipe.scheme in ("fp32", "tf32"):
            return module
        if recipe.scheme in HALVES:
            return half_module(module, HALVES[recipe.scheme])
        if recipe.engine == TORCHAO:
            return quantize_dynamically(module, recipe.scheme)
        if recipe.scheme in BITS:
            return quantize_weights(module, recipe.scheme, recipe.group_size)
        _use_engine(recipe.engine)
        if recipe.scheme == "dynamic_int8":
            return _dynamic(module, recipe)
        if recipe.scheme == "static_int8":
            prepared = observed(module, inputs, recipe, "minmax", reduce_range=False)
            _fix(prepared, recipe.activations)
            converted: nn.Module = convert(prepared)
            return converted
    raise UnsupportedError(f"eager has no scheme {recipe.scheme!r}")


def _pack(path: Path, grains: dict[str, Grain]) -> None:
    """Store the weights that ``grains`` names as whole numbers; names that share a tensor are stored under one."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    stored = {name: grain for name, grain in grains.items() if name in tensors}
    save_file(pack({name: tensor.clone() for name, tensor in tensors.items()}, stored), path)


def _halve(path: Path, dtype: str) -> None:
    """Store the float32 tensors of a safetensors file in 16 bits."""
    import torch
    from safetensors.torch import load_file, save_file

    half = getattr(torch, dtype)
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    halved = {name: t.to(half) if t.dtype == torch.float32 else t for name, t in tensors.items()}
    for name, tensor in halved.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            largest = tensors[name].abs().max()
            raise UnsupportedError(f"weight {name!r} holds {largest:.3g}, more than {dtype}'s {torch.finfo(half).max}")
    save_file(halved, path)


def half_module(module: nn.Module, dtype: str) -> nn.Module:
    """Return ``module`` in ``float16`` or ``bfloat16`` that still takes and returns float32."""
    import torch
    from torch.utils._pytree import tree_map_only

    half = getattr(torch, dtype)

    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module.to(half)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            def lower(tensor: torch.Tensor) -> torch.Tensor:
                return tensor.to(half) if tensor.is_floating_point() else tensor

            def widen(tensor: torch.Tensor) -> torch.Tensor:
                return tensor.to(torch.float32) if tensor.dtype == half else tensor

            args, kwargs = tree_map_only(torch.Tensor, lower, (args, kwargs))
            return tree_map_only(torch.Tensor, widen, self.model(*args, **kwargs))

    return Half().train(module.training)


def observed(
    module: nn.Module, inputs: Structure, recipe: Recipe, calibration: str, *, reduce_range: bool,
    symmetric: bool = False,
) -> Any:  # fmt: skip
    """Trace ``module`` and put an observer on every activation to be quantized.

    ``calibration`` is ``histogram`` or ``minmax``; ``reduce_range`` keeps activations in 7 bits; ``symmetric`` ranges
    have zero in their middle.
    """
    import torch
    from torch.ao.quantization.quantize_fx import prepare_fx

    _use_engine(recipe.engine)
    example = tuple(
        torch.zeros([_UNKNOWN_AXIS if size is None else size for size in spec.shape], dtype=getattr(torch, spec.dtype))
        for spec in inputs.tensors
    )
    activation = activation_observer(calibration, reduce_range=reduce_range, symmetric=symmetric)
    return prepare_fx(module, _mapping(recipe, activation), example_inputs=example)


def calibrate(prepared: Any, batches: Any) -> dict[str, dict[str, Any]]:
    """Run calibration batches through an observed module and return what each observer settled on."""
    import torch

    with torch.no_grad():
        for batch in batches:
            call(prepared, batch)
    found: dict[str, dict[str, Any]] = {}
    for name, observer in _observers(prepared):
        scale, zero_point = observer.calculate_qparams()
        found[name] = {
            "scale": float(scale),
            "zero_point": int(zero_point),
            "dtype": str(observer.dtype).removeprefix("torch."),
            "quant_min": int(observer.quant_min),
            "quant_max": int(observer.quant_max),
        }
    return found


def convert(prepared: Any) -> Any:
    """Turn an observed and calibrated module into the quantized one.

    Raises:
        UnsupportedError: nothing in it was quantized.
    """
    from torch.ao.quantization.quantize_fx import convert_fx

    converted = convert_fx(prepared)
    if not any("quantize_per_tensor" in str(node.target) for node in converted.graph.nodes):
        raise UnsupportedError("torch found no operator in the model that it can quantize")
    return converted


def _fix(prepared: Any, activations: dict[str, dict[str, Any]]) -> None:
    """Replace the observers by ones that already know their answer."""
    import torch
    from torch.ao.quantization.observer import FixedQParamsObserver

    made: dict[int, Any] = {}  # operators that share one observer must go on sharing one
    observers = _observers(prepared)
    if {name for name, _ in observers} != set(activations):
        odd = sorted({name for name, _ in observers} ^ set(activations))[0]
        raise UnsupportedError(f"the traced model is not the one that was calibrated: {odd!r} is on one side only")
    for name, observer in observers:
        if id(observer) not in made:
            known = {**activations[name], "dtype": getattr(torch, activations[name]["dtype"])}
            made[id(observer)] = FixedQParamsObserver(**known)  # type: ignore[no-untyped-call]
        prepared.set_submodule(name, made[id(observer)])


def _observers(prepared: Any) -> list[tuple[str, Any]]:
    """Return the observers whose answer depends on data, also those that appear under several names."""
    from torch.ao.quantization.observer import HistogramObserver, MinMaxObserver

    kinds = (MinMaxObserver, HistogramObserver)
    return [item for item in prepared.named_modules(remove_duplicate=False) if isinstance(item[1], kinds)]


def activation_observer(calibration: str, *, reduce_range: bool, symmetric: bool) -> Any:
    """Return what finds the range of an activation: ``histogram`` or ``minmax``."""
    import torch
    from torch.ao.quantization.observer import HistogramObserver, MinMaxObserver

    observer: Any = {"histogram": HistogramObserver, "minmax": MinMaxObserver}[calibration]
    if not symmetric:
        return observer.with_args(reduce_range=reduce_range)
    # With reduce_range alone torch keeps the middle of 8 bits for zero.
    own_range = {"quant_min": 0, "quant_max": 127} if reduce_range else {}
    return observer.with_args(qscheme=torch.per_tensor_symmetric, **own_range)


def _weight_observer(recipe: Recipe) -> Any:
    """Return what finds the scales of weights; packed ones use no more than what is symmetric about zero."""
    import torch
    from torch.ao.quantization.observer import (
        MinMaxObserver,
        PerChannelMinMaxObserver,
        default_per_channel_weight_observer,
    )

    if not recipe.packed:
        return default_per_channel_weight_observer
    common: dict[str, Any] = {"dtype": torch.qint8, "quant_min": -127, "quant_max": 127}
    if recipe.per_channel:
        return PerChannelMinMaxObserver.with_args(qscheme=torch.per_channel_symmetric, **common)
    return MinMaxObserver.with_args(qscheme=torch.per_tensor_symmetric, **common)


def _mapping(recipe: Recipe, activation: Any) -> Any:
    """Return what is quantized and how its ranges are found, as torch's FX quantization takes it."""
    from torch import nn
    from torch.ao.quantization import QConfig, QConfigMapping, get_default_qconfig_mapping

    weight = _weight_observer(recipe)
    if not recipe.everything:
        chosen = QConfig(activation=activation, weight=weight)  # type: ignore[no-untyped-call]
        mapping = QConfigMapping().set_global(None)
        for layer in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d):
            mapping.set_object_type(layer, chosen)
        return mapping
    mapping = get_default_qconfig_mapping(recipe.engine)
    default: Any = mapping.global_qconfig
    own: dict[str, Any] = {"activation": activation, **({"weight": weight} if recipe.packed else {})}
    mapping.set_global(default._replace(**own))
    for kind, existing in list(mapping.object_type_qconfigs.items()):
        if existing is not None and existing.activation is default.activation:
            kept = own if existing.weight is default.weight else {"activation": activation}
            mapping.set_object_type(kind, existing._replace(**kept))
    return mapping


def _dynamic(module: nn.Module, recipe: Recipe) -> nn.Module:
    """Quantize the weights of linear and recurrent layers; their inputs are quantized at every call."""
    import torch
    from torch import nn
    from torch.ao import quantization
    from torch.ao.quantization.observer import MinMaxObserver

    recurrent, linear = quantization.default_dynamic_qconfig, quantization.per_channel_dynamic_qconfig
    if recipe.packed:
        whole = MinMaxObserver.with_args(
            dtype=torch.qint8, qscheme=torch.per_tensor_symmetric, quant_min=-127, quant_max=127
        )
        linear, recurrent = linear._replace(weight=_weight_observer(recipe)), recurrent._replace(weight=whole)
    layers = {nn.Linear: linear, nn.LSTM: recurrent, nn.GRU: recurrent}
    quantized: nn.Module = quantization.quantize_dynamic(module, layers)  # type: ignore[no-untyped-call]
    return quantized


def _use_engine(engine: str) -> None:
    import torch

    if engine not in torch.backends.quantized.supported_engines:
        known = ", ".join(torch.backends.quantized.supported_engines)
        raise UnsupportedError(f"this torch has no quantized engine {engine!r}; it has {known}")
    torch.backends.mha.set_fastpath_enabled(False)  # it takes float weights only
    torch.backends.quantized.engine = engine
