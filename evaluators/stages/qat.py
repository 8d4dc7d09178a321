"""Quantization-aware training: float weights learn to be rounded, once for all backends that multiply int8.

Weights are rounded per output channel, symmetrically, and the inputs of convolutions and linear layers per tensor, as
every backend's static int8 does it; gradients pass the rounding as if it were not there (Jacob et al., 2018). Batch
norms keep their statistics. What comes out are float weights of the same shapes: each backend quantizes them itself,
with ranges that it finds on the trained model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from evaluators.errors import UnsupportedError
from evaluators.stages.export import plain_attention
from evaluators.stages.training import Course, batch_norms, fit, imitation, training_batches
from evaluators.structure import call
from evaluators.workload import Workload

RANGE_BATCHES = 8
RANGE_MOMENTUM = 0.02
_TINY = 1e-8


def train_for_int8(
    student: Any, teacher: Any, workload: Workload, steps: int, seed: int, limit_s: float | None = None
) -> None:
    """Train ``student`` in place to match ``teacher`` while its weights and activations are rounded to int8.

    Zeros of pruning stay zero. Data and loss are those of recovery by distillation.

    Raises:
        NotFiniteError: training diverged.
        TooSlowError: it would take longer than ``limit_s``.
        UnsupportedError: the model has no layer to train so.
    """
    layers = {name: layer for name, layer in student.named_modules() if _is_rounded(layer)}
    if not layers:
        raise UnsupportedError("the model has no convolution or linear layer whose rounding could be trained")
    loss_of = imitation(teacher, workload)
    course = Course("quantization-aware training", steps, 5e-4 if batch_norms(student) else 5e-5, seed, limit_s)
    student.eval()
    with plain_attention(), _rounded_inputs(layers.values(), student, workload, seed):
        fit(
            student, workload, course,
            lambda inputs, targets: loss_of(_rounded_call(student, layers, inputs), inputs, targets),
        )  # fmt: skip


def round_weight(weight: Any, axis: int) -> Any:
    """Return ``weight`` rounded to 255 steps per channel of ``axis``, symmetric about zero."""
    import torch

    others = [other for other in range(weight.ndim) if other != axis]
    scale = (weight.detach().abs().amax(others) / 127).clamp_min(_TINY)
    return torch.fake_quantize_per_channel_affine(
        weight, scale, torch.zeros_like(scale, dtype=torch.int32), axis, -127, 127
    )


class RoundedInput:
    """The range of one layer's input, which follows what is seen, and the rounding to 256 steps of it."""

    def __init__(self) -> None:
        self._low, self._high = 0.0, 0.0
        self._seen = 0
        self.rounds = False

    def __call__(self, layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Round the first input, as a hook of the layer."""
        import torch

        if not inputs or not inputs[0].is_floating_point():
            return inputs
        x, *rest = inputs
        self._observe(x.detach())
        if not self.rounds:
            return inputs
        scale = max((self._high - self._low) / 255, _TINY)
        zero_point = max(0, min(255, round(-self._low / scale)))
        return (torch.fake_quantize_per_tensor_affine(x, scale, zero_point, 0, 255), *rest)

    def _observe(self, x: Any) -> None:
        """Follow the smallest and the largest value; zero is always within."""
        low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
        self._seen += 1
        weight = RANGE_MOMENTUM if self.rounds else 1 / self._seen
        self._low += weight * (low - self._low)
        self._high += weight * (high - self._high)


def _is_rounded(layer: Any) -> bool:
    import torch

    return isinstance(layer, torch.nn.modules.conv._ConvNd | torch.nn.Linear)


@contextmanager
def _rounded_inputs(layers: Any, student: Any, workload: Workload, seed: int) -> Iterator[None]:
    """Round the inputs of ``layers`` while the block runs, in ranges that begin as those of a few batches."""
    import torch

    found = [(layer, RoundedInput()) for layer in layers]
    hooks = [layer.register_forward_pre_hook(rounded) for layer, rounded in found]
    try:
        with torch.no_grad():
            for inputs, _ in itertools.islice(training_batches(workload, seed), RANGE_BATCHES):
                call(student, inputs)
        for _, rounded in found:
            rounded.rounds = True
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rounded_call(student: Any, layers: dict[str, Any], inputs: Any) -> Any:
    """Call the student with rounded weights in the place of its own; one that layers share is rounded once."""
    import torch
    from torch.func import functional_call

    made: dict[int, Any] = {}
    rounded = {}
    for name, layer in layers.items():
        transposed = isinstance(layer, torch.nn.modules.conv._ConvTransposeNd)
        if id(layer.weight) not in made:
            made[id(layer.weight)] = round_weight(layer.weight, 1 if transposed else 0)
        rounded[f"{name}.weight" if name else "weight"] = made[id(layer.weight)]
    return call(lambda *args, **kwargs: functional_call(student, rounded, args, kwargs), inputs)
