"""A workload whose model has one layer that int8 is bad for: a channel of its inputs is far larger than the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from evaluators import Workload

CLASSES, SPIKED, SPIKE = 6, 1, 400.0
SPOILT = "stem"


class Spiked(nn.Module):
    """Three convolutions, a linear layer between activations, and a head: (N, 3, 10, 10) to (N, CLASSES).

    Channel 1 of the images is 400 times as large as the others, and its weights in ``stem`` that much smaller: in
    float it matters as much as they do, in a range of 8 bits nothing is left of them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm, self.stem_relu = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
        self.inner, self.inner_relu = nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        self.last, self.last_relu = nn.Conv2d(16, 24, 3, stride=2), nn.ReLU()
        self.wide, self.wide_relu = nn.Linear(24, 32), nn.ReLU()
        self.head = nn.Linear(32, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem_relu(self.stem_norm(self.stem(images)))
        x = self.last_relu(self.last(self.inner_relu(self.inner(x))))
        logits: Tensor = self.head(self.wide_relu(self.wide(torch.mean(x, (2, 3)))))
        return logits


def build_model() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = Spiked()
    with torch.no_grad():
        for parameter in model.parameters():
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values * (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else values * 0.1)
        model.stem_norm.weight.add_(1.0)
        model.stem.weight[:, SPIKED] /= SPIKE
    return model.eval()


def _split(seed: int, count: int) -> TensorDataset:
    images = torch.randn((count, 3, 10, 10), generator=torch.Generator().manual_seed(seed))
    images[:, SPIKED] *= SPIKE
    with torch.no_grad():
        return TensorDataset(images, build_model()(images).argmax(1))


def top1(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(1) == labels).float()


workload = Workload(
    name="spiked",
    model=build_model,
    calibration=lambda: _split(1, 32),
    validation=lambda: _split(2, 64),
    metric=top1,
)
