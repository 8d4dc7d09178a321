"""Hidden pruning: units leave LSTM, GRU and RNN layers, and the layers that read them get narrower inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.parameters import Number, Parameter
from evaluators.profile import Prunable, WorkloadProfile
from evaluators.pruners.base import Pruner
from evaluators.pruners.data import PruningData
from evaluators.pruners.importance import UNITS_BY, best, element_scores, is_taylor
from evaluators.pruners.silencing import Probe, Rows, adopt, keep_columns
from evaluators.pruners.widths import ALIGNMENT, fitting, kept_width

_CONTENT_GATE = {"LSTM": 2, "GRU": 2, "RNN": 0}
"""Which rows of a layer's weights make what a unit holds; where they are zero, so is the unit, from the first step."""

_Stacked = tuple[int, str]
"""A layer of a stack, and the suffix of its direction."""


class Hidden(Pruner):
    """Removes the least important hidden units of recurrent layers, the same share in every layer and direction."""

    structure: ClassVar[str] = "hidden"
    amount: ClassVar[Number] = Number(
        "amount", 0.1, 0.8, 0.1, 0.5, "share of the hidden units of each recurrent layer that is removed"
    )
    parameters: ClassVar[tuple[Parameter, ...]] = (UNITS_BY, ALIGNMENT)
    pays: ClassVar[str] = "in time and size, both about with the square of what is left"

    def look(self, module: Any, example: Any) -> Prunable:
        """Find the recurrent layers that can be cut: those whose readers are known."""
        named = [(name, layer) for name, layer in module.named_modules() if type(layer).__name__ in _CONTENT_GATE]
        if not named:
            return Prunable(why_not="the model has no LSTM, GRU or RNN layer")
        probe, sizes, reasons = Probe(module, example), [], []
        for name, layer in named:
            why = _refused(layer)
            if why is None:
                why = _unread(layer, _reading(probe, layer))
            if why is None:
                sizes.append(layer.hidden_size)
            else:
                reasons.append(f"{name}: {why}")
        return Prunable(sizes=tuple(sizes)) if sizes else Prunable(why_not="; ".join(reasons))

    def refuse(self, profile: WorkloadProfile) -> str | None:
        """Some layer must be wide enough to lose a whole block of units."""
        if (why := super().refuse(profile)) is not None:
            return why
        if max(profile.prunable[self.structure].sizes) <= int(ALIGNMENT.values[0]):
            return f"no recurrent layer is wider than {ALIGNMENT.values[0]} units, the smallest alignment"
        return None

    def knobs_for(self, profile: WorkloadProfile) -> tuple[Parameter, ...]:
        """An alignment as wide as the widest layer removes nothing."""
        found = profile.prunable.get(self.structure, Prunable())
        return (UNITS_BY, fitting(ALIGNMENT, max(found.sizes, default=0)))

    def reads_data(self, values: dict[str, Scalar]) -> bool:
        return is_taylor(values)

    def prune(
        self, module: Any, example: Any, amount: float, values: dict[str, Scalar], *,
        data: PruningData | None = None, between: Callable[[Any], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Remove units; every layer is left a multiple of ``alignment``."""
        removed: dict[str, Any] = {}
        reasons: list[str] = []
        score = element_scores(module, str(values["importance"]), data)
        scores = {
            name: {part: _scores(layer, part, score) for part in _parts(layer)}
            for name, layer in module.named_modules() if type(layer).__name__ in _CONTENT_GATE
        }  # fmt: skip
        for name, of_parts in scores.items():
            layer = module.get_submodule(name)
            count = kept_width(layer.hidden_size, amount, int(values["alignment"]))
            if count == layer.hidden_size:
                reasons.append(f"{name}: {amount:.0%} of {count} units at this alignment is nothing")
                continue
            reading = {} if _refused(layer) else _reading(Probe(module, example), layer)
            if (why := _refused(layer) or _unread(layer, reading)) is not None:
                reasons.append(f"{name}: {why}")
                continue
            kept = {part: best(found, count) for part, found in of_parts.items()}
            gone = {part: sorted(set(range(layer.hidden_size)) - set(units)) for part, units in kept.items()}
            smaller = copy.deepcopy(module)
            _cut(smaller, name, kept, reading)
            rows = [row for part, units in gone.items() for row in _content(layer, part, units)]
            adopt(module, smaller, example, rows, f"units leave {name}")
            removed[name] = {f"l{index}{suffix}": units for (index, suffix), units in gone.items()}
        if not removed:
            raise UnsupportedError(f"no recurrent layer can be cut: {'; '.join(reasons) or 'there is none'}")
        return {"structure": self.structure, "removed": removed}


def _refused(layer: Any) -> str | None:
    return "it projects its units (proj_size)" if getattr(layer, "proj_size", 0) else None


def _parts(layer: Any) -> list[_Stacked]:
    suffixes = ("", "_reverse") if layer.bidirectional else ("",)
    return [(index, suffix) for index in range(layer.num_layers) for suffix in suffixes]


def _weights(layer: Any, part: _Stacked) -> list[Any]:
    index, suffix = part
    kinds = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if layer.bias else ()))
    return [getattr(layer, f"{kind}_l{index}{suffix}") for kind in kinds]


def _content(layer: Any, part: _Stacked, units: Sequence[int]) -> Rows:
    start = _CONTENT_GATE[type(layer).__name__] * layer.hidden_size
    return [(weight, [start + unit for unit in units]) for weight in _weights(layer, part)]


def _reading(probe: Probe, layer: Any) -> dict[str, str]:
    """Return who reads the last layer of a stack: every other unit of one direction is silenced, the rest of the other.

    Inputs may be both directions beside each other, or one alone.
    """
    width, last = layer.hidden_size, layer.num_layers - 1
    even, odd = range(0, width, 2), range(1, width, 2)
    rows = list(_content(layer, (last, ""), even))
    patterns: dict[str, tuple[int, Sequence[int]]] = {"all": (width, even)}
    if layer.bidirectional:
        rows += _content(layer, (last, "_reverse"), odd)
        both = [*even, *(width + unit for unit in odd)]
        patterns = {"all": (2 * width, both), "": (width, even), "_reverse": (width, odd)}
    return probe.readers(rows, patterns)


def _unread(layer: Any, reading: Mapping[str, str]) -> str | None:
    if reading:
        return None
    return f"no linear or recurrent layer reads its {layer.hidden_size} units as they are"


def _scores(layer: Any, part: _Stacked, score: Callable[[Any], Any]) -> list[float]:
    """Return the importance of every unit: what makes it in all gates, and what reads it within the layer."""
    found = sum(score(weight).reshape(-1, layer.hidden_size, weight[0].numel()).sum((0, 2)) for weight in
                _weights(layer, part))  # fmt: skip
    found = found + score(_weights(layer, part)[1]).sum(0)
    values: list[float] = found.tolist()
    return values


def _cut(module: Any, name: str, kept: Mapping[_Stacked, list[int]], reading: Mapping[str, str]) -> None:
    """Leave a recurrent layer the units in ``kept``, and its readers the inputs that are left."""
    import torch

    layer = module.get_submodule(name)
    width, last = layer.hidden_size, layer.num_layers - 1
    for part, units in kept.items():
        index, suffix = part
        rows = [start + unit for start in range(0, _weights(layer, part)[1].shape[0], width) for unit in units]
        for kind, weight in zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), _weights(layer, part), strict=False):
            cut = weight.detach()[rows]
            if kind == "weight_hh":
                cut = cut[:, units]
            if kind == "weight_ih" and index:
                cut = cut[:, _outputs(kept, index - 1, width)]
            setattr(layer, f"{kind}_l{index}{suffix}", torch.nn.Parameter(cut.clone(), requires_grad=False))
    layer.hidden_size = len(kept[last, ""])
    columns = {"all": _outputs(kept, last, width), "": kept[last, ""], "_reverse": kept.get((last, "_reverse"), [])}
    for reader, pattern in reading.items():
        keep_columns(module.get_submodule(reader), columns[pattern])


def _outputs(kept: Mapping[_Stacked, list[int]], index: int, width: int) -> list[int]:
    """Return which features of a layer's output are left: forward units, then backward ones."""
    return [*kept[index, ""], *(width + unit for unit in kept.get((index, "_reverse"), ()))]
