"""Shoulder exercises recorded by a smartwatch, as tensors: windows of 2 s of acceleration and rotation."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

STEPS = 100  # 2 s at 50 Hz
EXERCISES = ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
STEPS_PER_UNIT = np.array([4096, 4096, 4096, 1024, 1024, 1024])  # of int16: up to 8 g, and up to 32 rad/s
STD = np.array([0.7, 0.7, 0.7, 1.6, 1.6, 1.6])  # about that of all recordings; axes alike, so that a turn is a turn

Windows = NDArray[np.int16]


def to_steps(recording: NDArray[np.float64]) -> Windows:
    """A recording (T, 6) in g and rad/s as int16 (T, 6); raises ValueError when a value does not fit."""
    steps = np.rint(recording * STEPS_PER_UNIT)
    if (largest := np.abs(steps).max()) > np.iinfo(np.int16).max:
        raise ValueError(f"a value of the recording is {largest:.0f} steps, which int16 does not hold")
    return steps.astype(np.int16)


def cut(recording: Windows, stride: int) -> Windows:
    """A recording (T, 6) as windows (N, STEPS, 6) that begin ``stride`` steps apart; what is left over is dropped."""
    views = np.lib.stride_tricks.sliding_window_view(recording, STEPS, axis=0)[::stride]
    return np.ascontiguousarray(views.transpose(0, 2, 1))


def normalize(windows: Windows) -> Tensor:
    """Windows (N, STEPS, 6) as float32 with a deviation of about 1."""
    scale = 1 / (STEPS_PER_UNIT * STD)
    return torch.from_numpy(np.multiply(windows, scale, dtype=np.float32, casting="same_kind"))


def load(folder: Path, split: str) -> TensorDataset:
    """One split as a dataset of (window (STEPS, 6), exercise ()) pairs, held in memory."""
    with np.load(folder / f"{split}.npz", allow_pickle=False) as stored:
        return TensorDataset(normalize(stored["windows"]), torch.from_numpy(stored["labels"].astype(np.int64)))
