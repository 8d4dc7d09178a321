"""The tiny workload with a sealed test split that calibration never saw the like of: int8 saturates on it."""

from dataclasses import replace

from torch.utils.data import TensorDataset

from tests import tiny


def one_bright_pixel() -> TensorDataset:
    """Quiet images whose class is decided by one pixel far brighter than any that calibration has seen."""
    images = tiny._split(5, 64).tensors[0] * 0.3
    images[:, :, 6, 6] = 60.0
    return TensorDataset(images, tiny.build_model()(images).argmax(1))


workload = replace(tiny.workload, name="shifted", test=one_bright_pixel)
