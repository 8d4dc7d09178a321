"""How a model is called and what it returns: one tensor, a tuple, or a dict of tensors, as a list of named arrays.

Every runtime sees the same named arrays; only this module knows the user's own shape of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from evaluators.errors import WorkloadError
from evaluators.frozen import Frozen


class TensorSpec(Frozen):
    """One named tensor: NumPy dtype name and shape; ``None`` marks an axis that varies, axis 0 is the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def dynamic_axes(self) -> tuple[int, ...]:
        """Axes other than the batch whose length varies from batch to batch."""
        return tuple(axis for axis, size in enumerate(self.shape) if axis and size is None)


class Structure(Frozen):
    """``tensor``: one tensor; ``tuple``: positional; ``dict``: by name."""

    style: Literal["tensor", "tuple", "dict"]
    tensors: tuple[TensorSpec, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the tensors, in call order."""
        return tuple(tensor.name for tensor in self.tensors)

    @property
    def varies(self) -> bool:
        """Whether any axis besides the batch varies from batch to batch."""
        return any(tensor.dynamic_axes for tensor in self.tensors)

    def check(self, batch: Mapping[str, Any], batch_size: int) -> None:
        """Refuse named arrays that are not a batch of ``batch_size`` examples of this structure.

        Another type of the same kind is taken (float64 for float32), one that loses meaning is not (floats for ids).

        Raises:
            WorkloadError: an array is missing, has another shape, or a type that cannot be converted.
        """
        import numpy as np

        for spec in self.tensors:
            if spec.name not in batch:
                raise WorkloadError(f"the batch has no {spec.name!r}; it has {sorted(batch) or 'nothing'}")
            array, wanted = batch[spec.name], (batch_size, *spec.shape[1:])
            if len(array.shape) != len(wanted) or any(
                size not in (None, found) for size, found in zip(wanted, array.shape, strict=True)
            ):
                shown = ", ".join("any" if size is None else str(size) for size in wanted)
                raise WorkloadError(f"{spec.name} has shape {tuple(array.shape)}; the bundle takes ({shown})")
            if not np.can_cast(array.dtype, spec.dtype, "same_kind"):
                raise WorkloadError(f"{spec.name} is {array.dtype}, which cannot be taken for {spec.dtype}")

    def pack(self, values: Sequence[Any]) -> Any:
        """Return ``values`` (in call order) in the user's own shape."""
        if self.style == "tensor":
            return values[0]
        return tuple(values) if self.style == "tuple" else dict(zip(self.names, values, strict=True))


def flatten(value: Any, what: str) -> tuple[Literal["tensor", "tuple", "dict"], dict[str, Any]]:
    """Return the style of ``value`` and its tensors by name.

    Raises:
        WorkloadError: it is not a tensor, or a tuple or mapping of tensors.
    """
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return "tensor", {what: value}
    if isinstance(value, Mapping):
        named = {str(name): item for name, item in value.items() if item is not None}
        style: Literal["tuple", "dict"] = "dict"
    elif isinstance(value, tuple | list):
        named = {f"{what}_{i}": item for i, item in enumerate(value)}
        style = "tuple"
    else:
        raise WorkloadError(f"{what} is a {type(value).__name__}; it must be a tensor, or a tuple or dict of tensors")
    for name, item in named.items():
        if not (hasattr(item, "dtype") and hasattr(item, "shape")):
            raise WorkloadError(f"{what} {name!r} is a {type(item).__name__}; it must be a tensor")
    return style, named


def call(model: Any, inputs: Any) -> Any:
    """Call ``model`` as the contract says: ``model(x)``, ``model(*inputs)`` or ``model(**inputs)``."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)
