"""A workload of one linear layer, so that what is built from it is small and quick to build."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from evaluators import Workload


def build_model() -> nn.Module:
    model = nn.Linear(4, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return model.eval()


@cache
def _examples(seed: int) -> TensorDataset:
    numbers = torch.randn((32, 4), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        labels = build_model()(numbers).argmax(1)
    return TensorDataset(numbers, labels)


def top1(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs.argmax(1) == labels).float()


workload = Workload(
    name="small", model=build_model, calibration=lambda: _examples(1), validation=lambda: _examples(2), metric=top1
)
