"""A tiny real workload for tests: a small CNN with fixed weights on noise, labelled by the model's own answers."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from evaluators import Workload


class Tiny(nn.Module):
    """Two convolutions of 32 channels and a linear head of 4 classes over 1x12x12 inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def build_model() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = Tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


@cache
def _split(seed: int, count: int) -> TensorDataset:
    images = torch.randn((count, 1, 12, 12), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        labels = build_model()(images).argmax(1)
    return TensorDataset(images, labels)


def top1(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(1) == labels).float()


workload = Workload(
    name="tiny",
    model=build_model,
    calibration=lambda: _split(1, 64),
    validation=lambda: _split(2, 200),
    test=lambda: _split(3, 64),
    train=lambda: _split(4, 256),
    metric=top1,
)
