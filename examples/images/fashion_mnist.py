"""Fashion-MNIST as tensors: gzipped IDX files, the format of MNIST."""

import gzip
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

MEAN, STD = 0.2860, 0.3530  # of all pixels of the 60,000 training images, scaled to 0..1

Pixels = NDArray[np.uint8]


def read_idx(path: Path) -> Pixels:
    """The array of bytes in a gzipped IDX file; raises ValueError when it is not one."""
    raw = gzip.decompress(path.read_bytes())
    zero, kind, dimensions = struct.unpack(">HBB", raw[:4])
    if (zero, kind) != (0, 8):
        raise ValueError(f"{path} is not an IDX file of bytes: it starts with {raw[:4].hex()}, not 000008")
    header = 4 + 4 * dimensions
    shape = struct.unpack(f">{dimensions}I", raw[4:header])
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def write_idx(path: Path, array: Pixels) -> None:
    """Writes an array of bytes as a gzipped IDX file; the same array gives the same file."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), compresslevel=9, mtime=0))


def normalize(pixels: Pixels) -> Tensor:
    """Images (N, 28, 28) of 0..255 as float32 (N, 1, 28, 28) with mean 0 and deviation 1."""
    images = np.multiply(pixels, 1 / (255 * STD), dtype=np.float32)
    images -= MEAN / STD
    return torch.from_numpy(images).unsqueeze(1)


def load(folder: Path, split: str) -> TensorDataset:
    """One split as a dataset of (image (1, 28, 28), label ()) pairs, held in memory."""
    images = normalize(read_idx(folder / f"{split}-images-idx3-ubyte.gz"))
    labels = torch.from_numpy(read_idx(folder / f"{split}-labels-idx1-ubyte.gz").astype(np.int64))
    return TensorDataset(images, labels)
