"""The tiny workload with a sealed test split that calibration never saw the like of: int8 saturates on it."""

from dataclasses import replace

from torch.utils.data import TensorDataset

from tests import tiny

TIMES_LOUDER = 40.0


def louder() -> TensorDataset:
    images, _ = tiny._split(5, 64).tensors
    images = images * TIMES_LOUDER
    return TensorDataset(images, tiny.build_model()(images).argmax(1))


workload = replace(tiny.workload, name="shifted", test=louder)
