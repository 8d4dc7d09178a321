"""Measuring sensitivity: the float model with one layer after the other in int8, by fake quantization."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluators.cache import Entry, StageCache
from evaluators.candidate import Candidate
from evaluators.errors import UsageError
from evaluators.frozen import digest
from evaluators.jobs import SensitivityJob
from evaluators.libraries import converting
from evaluators.sensitivity import KINDS, RECURRENT, LayerNoise, LayerSensitivity, ranked
from evaluators.stages.clock import StageClock
from evaluators.stages.export import plain_attention
from evaluators.structure import call, flatten
from evaluators.target import environment, probe_processor
from evaluators.workload import load_workload

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCH, MOST_EXAMPLES = 16, 64
_FILE = "sensitivity.json"
_RECIPE = "int8: weights symmetric per channel, input affine per tensor, minmax"


def sensitivity(job: SensitivityJob, clock: StageClock) -> tuple[LayerSensitivity, ...]:
    """Measure the layers of a workload's model, unpruned, or read what a trial has measured of them.

    Raises:
        UsageError: the model has no layer that can be measured.
    """
    import torch

    from evaluators.stages.source import StagedSource
    from evaluators.stages.sourcing import Sourcing

    home, profile = Path(job.home), job.profile
    cache = StageCache(home / "cache" / "stages")
    with clock.stage("read"):
        workload = load_workload(profile.reference)
    torch.set_num_threads(probe_processor().cores)
    target = probe_processor()
    candidate = Candidate(target=target.name, backend="eager")
    weights = Sourcing(workload, profile, cache, clock, seed=0).weights(candidate)
    with clock.stage("sensitivity"):
        layers = StagedSource(workload, profile, weights, cache, candidate.batch_size, target).sensitivity()
    if not layers:
        found = ", ".join(sorted(profile.layers)) or "none"
        raise UsageError(f"{profile.name} has no {', '.join(KINDS)} layer to be put into int8; its layers are {found}")
    return layers


def measured_once(cache: StageCache, facts: Sequence[Any], module: Any, batches: Any) -> tuple[LayerSensitivity, ...]:
    """Return the ranked layers of a stored model; ``facts`` are what they depend on, ``module`` and ``batches`` make
    the model and its calibration batches where nobody has measured it yet.
    """

    def make(folder: Path) -> None:
        layers = ranked(measure(module(), list(batches())))
        (folder / _FILE).write_text(json.dumps([layer.to_json() for layer in layers]))

    key = digest(["sensitivity", *facts, _RECIPE, BATCH, MOST_EXAMPLES, environment()])
    entry: Entry = cache.get_or_make(key, make, "sensitivity")
    return tuple(LayerSensitivity.model_validate(each) for each in json.loads((entry.folder / _FILE).read_text()))


def measure(module: nn.Module, batches: Sequence[Any]) -> list[LayerNoise]:
    """Return the noise that each layer alone makes in int8, in the order of the model.

    The range of its input is that over all ``batches``; a layer that is never called makes none. ``module`` is changed
    while it is measured, and is as it was afterwards.

    Raises:
        UnsupportedError: the model fails on a batch.
    """
    import torch

    layers = measurable(module)
    with torch.no_grad(), plain_attention(), converting("the model cannot be measured layer by layer"):
        wanted, ranges = _observed(module, layers, batches)
        found = []
        for name, layer in layers.items():
            noise = 0.0
            if name in ranges:
                with _in_int8(layer, *ranges[name]):
                    noise = _relative_noise([_outputs(module, batch) for batch in batches], wanted)
            parameters = sum(parameter.numel() for parameter in layer.parameters())
            found.append(LayerNoise(name, type(layer).__name__, parameters, noise))
    return found


def measurable(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that can be put into int8, by name; one that appears under several names only once."""
    return {name: layer for name, layer in module.named_modules() if type(layer).__name__ in KINDS and _weights(layer)}


def _weights(layer: nn.Module) -> list[str]:
    """Return the names of the weights of a layer (those of biases left out)."""
    names = ("weight",) if type(layer).__name__ not in RECURRENT else tuple(layer._parameters)
    return [name for name in names if name.startswith("weight") and layer._parameters.get(name) is not None]


def _observed(
    module: nn.Module, layers: Mapping[str, nn.Module], batches: Sequence[Any]
) -> tuple[list[list[Tensor]], dict[str, tuple[float, float]]]:
    """Return the outputs of the float model, batch by batch, and the range of each layer's input."""
    ranges: dict[str, tuple[float, float]] = {}

    def observing(name: str) -> Any:
        def observe(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            values = _values(inputs)
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))

        return observe

    hooks = [layer.register_forward_pre_hook(observing(name)) for name, layer in layers.items()]
    try:
        return [_outputs(module, batch) for batch in batches], ranges
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _in_int8(layer: nn.Module, low: float, high: float) -> Iterator[None]:
    """Let a layer compute with what int8 keeps of its weights and of an input of this range."""
    import torch

    scale = max((high - low) / 255, torch.finfo(torch.float32).tiny)
    zero_point = max(0, min(255, round(-low / scale)))

    def quantize(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        values = _values(inputs)
        kept = torch.fake_quantize_per_tensor_affine(values.float(), scale, zero_point, 0, 255).to(values.dtype)
        return (inputs[0]._replace(data=kept) if inputs[0] is not values else kept, *inputs[1:])

    axis = 1 if type(layer).__name__.startswith("ConvTranspose") else 0
    kept = {name: layer._parameters[name] for name in _weights(layer)}
    hook = layer.register_forward_pre_hook(quantize)
    try:
        for name, weight in kept.items():
            setattr(layer, name, torch.nn.Parameter(_rounded(weight, axis), requires_grad=False))
        yield
    finally:
        hook.remove()
        for name, weight in kept.items():
            setattr(layer, name, weight)


def _rounded(weight: Any, axis: int) -> Tensor:
    """Return what int8 keeps of a weight, with a scale for each channel along ``axis``."""
    import torch

    others = [each for each in range(weight.ndim) if each != axis]
    scales = weight.abs().amax(others).float().clamp_min(torch.finfo(torch.float32).tiny) / 127
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    rounded: Tensor = torch.fake_quantize_per_channel_affine(weight.float(), scales, zeros, axis, -127, 127)
    return rounded.to(weight.dtype)


def _values(inputs: tuple[Any, ...]) -> Any:
    """Return the tensor that a layer is called with, out of a packed sequence too.

    Raises:
        ValueError: it was not given by position, and hooks see no other.
    """
    from torch.nn.utils.rnn import PackedSequence

    if not inputs:
        raise ValueError("a layer is called with its input by keyword; call it by position")
    return inputs[0].data if isinstance(inputs[0], PackedSequence) else inputs[0]


def _outputs(module: nn.Module, batch: Any) -> list[Tensor]:
    return list(flatten(call(module, batch), "output")[1].values())


def _relative_noise(found: Sequence[Sequence[Tensor]], wanted: Sequence[Sequence[Tensor]]) -> float:
    """Return the power of the error over that of what is wanted, the mean over the outputs of the model."""
    ratios = []
    for mine, theirs in zip(zip(*found, strict=True), zip(*wanted, strict=True), strict=True):
        noise = sum(float((a.double() - b.double()).square().sum()) for a, b in zip(mine, theirs, strict=True))
        signal = sum(float(b.double().square().sum()) for b in theirs)
        ratios.append(noise / signal if signal else float(noise > 0))
    return sum(ratios) / len(ratios)
