"""Workloads whose model misbehaves when it is called: each way of failing must become a typed outcome."""

import ctypes
import time
from dataclasses import replace

import torch
from torch import Tensor, nn

from tests import tiny


class _Misbehaving(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 4, 3)


class Segfault(_Misbehaving):
    def forward(self, x: Tensor) -> Tensor:
        ctypes.string_at(0)
        return self.layer(x).mean((2, 3))


class Hog(_Misbehaving):
    def forward(self, x: Tensor) -> Tensor:
        kept = [torch.ones(2**26) for _ in range(2**10)]
        return self.layer(x).mean((2, 3)) + len(kept)


class Hang(_Misbehaving):
    def forward(self, x: Tensor) -> Tensor:
        time.sleep(3600)
        return self.layer(x).mean((2, 3))


class NotANumber(_Misbehaving):
    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean((2, 3)) * float("nan")


class SegfaultInBatches(_Misbehaving):
    """Sound at every batch size but 4."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] == 4:
            ctypes.string_at(0)
        return self.layer(x).mean((2, 3))


def _failing(name: str, model: type[nn.Module]) -> object:
    return replace(tiny.workload, name=name, model=lambda: model().eval())


segfault = _failing("segfault", Segfault)
hog = _failing("hog", Hog)
hang = _failing("hang", Hang)
not_a_number = _failing("not-a-number", NotANumber)
segfault_in_batches = _failing("segfault-in-batches", SegfaultInBatches)
