"""Sensitivity: what int8 in one layer alone costs a model's outputs, and which layers stay in float for it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import NamedTuple

from evaluators.frozen import Frozen

CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
RECURRENT = ("LSTM", "GRU")
KINDS = (*CONVOLUTIONS, "Linear", *RECURRENT)
"""The classes of layers that are measured; a subclass may do anything in its forward, and is not."""

NO_NOISE_DB = 200.0
"""The ratio that stands for no noise at all; its negative for nothing but noise."""


class LayerNoise(NamedTuple):
    """What was measured of one layer: ``noise`` is the power of the error of the outputs over that of the outputs."""

    name: str
    kind: str
    parameters: int
    noise: float


class LayerSensitivity(Frozen):
    """What int8 in one layer alone does to a model's outputs.

    Attributes:
        name: of the layer in the model, as ``named_modules`` gives it.
        kind: its class: ``Conv2d``, ``Linear``, ``LSTM``, ….
        parameters: how many it has.
        sqnr_db: signal over noise of the outputs where that layer alone computes in int8; the lower, the worse.
        noise_share: its part of the noise that all layers make, each for itself.
    """

    name: str
    kind: str
    parameters: int
    sqnr_db: float
    noise_share: float


def ranked(measured: Iterable[LayerNoise]) -> tuple[LayerSensitivity, ...]:
    """Return the layers, those first that int8 costs most; of equals those first that come first in the model.

    A noise that is not finite stands for outputs that are lost altogether.
    """
    layers = [layer._replace(noise=layer.noise if math.isfinite(layer.noise) else math.inf) for layer in measured]
    finite = [layer.noise for layer in layers if math.isfinite(layer.noise)]
    lost = len(layers) - len(finite)
    total = math.fsum(finite)

    def share(noise: float) -> float:
        if lost:
            return 0.0 if math.isfinite(noise) else 1 / lost
        return noise / total if total else 0.0

    return tuple(
        LayerSensitivity(
            name=layer.name, kind=layer.kind, parameters=layer.parameters, sqnr_db=_decibels(layer.noise),
            noise_share=share(layer.noise),
        )
        for layer in sorted(layers, key=lambda layer: -layer.noise)
    )  # fmt: skip


def kept_count(share: float, layers: int) -> int:
    """Return how many of ``layers`` stay in float: at least the share, and none where it is 0."""
    return math.ceil(round(share * layers, 6))


def worst(layers: Iterable[LayerSensitivity], kinds: Collection[str], share: float) -> tuple[str, ...]:
    """Return the names of the ``share`` of the layers of these ``kinds`` that come first in a ranking."""
    names = [layer.name for layer in layers if layer.kind in kinds]
    return tuple(names[: kept_count(share, len(names))])


def _decibels(noise: float) -> float:
    """Return signal over noise in dB of a relative power of noise."""
    if not noise:
        return NO_NOISE_DB
    return max(-NO_NOISE_DB, min(NO_NOISE_DB, -10 * math.log10(noise))) if math.isfinite(noise) else -NO_NOISE_DB
