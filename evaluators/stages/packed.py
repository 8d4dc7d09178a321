"""Packed weights: float tensors kept in a file of safetensors as whole numbers of 8 or 4 bits and their scales.

Whole numbers lie symmetrically about zero, from -127 to 127 or from -7 to 7. What is read back and quantized again over
the same range therefore gives the same whole numbers, and a bundle computes with the weights that it stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.errors import IntegrityError

if TYPE_CHECKING:
    from torch import Tensor

SCALE = ":scale"
"""What the name of a packed tensor's scales ends with; no name in a module has a colon."""

_SMALLEST_SCALE = 2.0**-23  # torch's observers clip scales there, too


@dataclass(frozen=True)
class Grain:
    """How a tensor is rounded.

    Attributes:
        bits: 8 or 4 for each number.
        share: how many numbers have one scale: ``tensor`` all, ``row`` those of an index of axis 0, else a count.
    """

    bits: int = 8
    share: str | int = "row"

    @property
    def largest(self) -> int:
        """The largest whole number."""
        return int(2 ** (self.bits - 1)) - 1


def rounded(weight: Tensor, grain: Grain) -> tuple[Tensor, Tensor]:
    """Return whole numbers (int8, in the shape of ``weight``) and a scale for each that share one (float32, flat)."""
    import torch

    each = {"tensor": weight.numel(), "row": weight[0].numel()}.get(str(grain.share), grain.share)
    numbers = weight.float().reshape(-1, int(each))
    scales = (numbers.abs().amax(1) / grain.largest).clamp_min(_SMALLEST_SCALE)
    whole = (numbers / scales[:, None]).round().clamp(-grain.largest, grain.largest)
    return whole.to(torch.int8).reshape(weight.shape), scales


def widened(whole: Tensor, scales: Tensor) -> Tensor:
    """Return the float32 weights that whole numbers and their scales stand for."""
    return (whole.reshape(scales.numel(), -1).float() * scales.reshape(-1, 1)).reshape(whole.shape)


def pack(tensors: dict[str, Tensor], grains: dict[str, Grain]) -> dict[str, Tensor]:
    """Return ``tensors`` with those that ``grains`` names packed; two numbers of 4 bits fill a byte."""
    packed = dict(tensors)
    for name, grain in grains.items():
        whole, scales = rounded(tensors[name], grain)
        paired = grain.bits == 4 and whole.shape[-1] % 2 == 0
        packed[name] = _paired(whole) if paired else whole
        packed[name + SCALE] = scales
    return packed


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a file of safetensors, packed tensors as the float32 ones that they stand for.

    Raises:
        IntegrityError: a tensor's scales do not fit it.
    """
    from safetensors.torch import load_file

    tensors = load_file(path)
    for name in [name for name in tensors if name.endswith(SCALE)]:
        scales, owner = tensors.pop(name), name.removesuffix(SCALE)
        if owner not in tensors:
            raise IntegrityError(f"stored scales {name!r} belong to no stored weight")
        whole = _apart(tensors[owner]) if str(tensors[owner].dtype) == "torch.uint8" else tensors[owner]
        if not scales.numel() or whole.numel() % scales.numel():
            raise IntegrityError(f"weight {owner!r} of {whole.numel()} numbers has {scales.numel()} scales")
        tensors[owner] = widened(whole, scales)
    return tensors


def _paired(whole: Tensor) -> Tensor:
    import torch

    halves = (whole + 8).to(torch.uint8)
    return (halves[..., 0::2] | (halves[..., 1::2] << 4)).contiguous()


def _apart(pairs: Tensor) -> Tensor:
    import torch

    halves = torch.stack([pairs & 15, pairs >> 4], dim=-1).to(torch.int8) - 8
    return halves.flatten(-2)
