"""ResNet-8 of the image example with uneven channels: the same function, and far harder to round to int8.

Between the convolutions of a block each channel is multiplied by a factor of its own and divided by it in the weights
that read it, which a ReLU lets pass. Scales like these are what trained networks with depthwise convolutions have
(Nagel et al., Data-Free Quantization Through Weight Equalization, 2019).
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn

from benchmarks.bundles import IMAGES
from evaluators.workload import load_workload

FARTHEST = 16.0
"""The largest factor; the smallest is its inverse, and the others lie evenly between them."""

_even = load_workload(IMAGES)


def uneven_model() -> nn.Module:
    """Return the example's model with other weights, and with its outputs but for the rounding of float32."""
    model = _even.model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in (model.stage1, model.stage2, model.stage3):
            channels = block.conv2.in_channels
            steps = torch.linspace(-1, 1, channels)[torch.randperm(channels, generator=generator)]
            factors = torch.exp(steps * math.log(FARTHEST))
            block.norm1.weight *= factors
            block.norm1.bias *= factors
            block.conv2.weight /= factors[:, None, None]
    return model


workload = replace(_even, name="fashion-mnist-resnet8-uneven", model=uneven_model)
