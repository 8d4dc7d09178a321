"""Head pruning: whole attention heads leave a transformer, and with them, if asked, inner units of its perceptrons."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from evaluators.bundle.contents.torch_model import SLIM
from evaluators.candidate import Scalar
from evaluators.errors import UnsupportedError
from evaluators.parameters import Choice, Number, Parameter
from evaluators.profile import Prunable, WorkloadProfile
from evaluators.pruners.attention import (
    WIDTHS,
    Attention,
    Perceptron,
    find_attention,
    find_perceptrons,
    linear_rows,
)
from evaluators.pruners.base import Pruner
from evaluators.pruners.data import PruningData
from evaluators.pruners.importance import UNITS_BY, best, element_scores, is_taylor
from evaluators.pruners.silencing import Probe, adopt, keep_columns, keep_rows
from evaluators.pruners.widths import kept_width, shares

_AMOUNT = "share of the heads of each attention that is removed"
_PERCEPTRON = Choice(
    "perceptron_amount", (0.0, 0.25, 0.5), 0.25, "share of the inner units of each perceptron that is removed with them"
)
_ALIGNMENT = 8
_Score = Callable[[Any], Any]


class Heads(Pruner):
    """Removes the least important heads (Michel et al., 2019), the same share of every attention.

    For ``torch.nn.MultiheadAttention``, which has no place for fewer heads, a slim one takes over; other attention is
    known by its linear layers for queries, keys and values, and by an attribute with the number of its heads.
    """

    structure: ClassVar[str] = "heads"
    amount: ClassVar[Number] = Number("amount", 0.25, 0.75, 0.25, 0.25, _AMOUNT)
    parameters: ClassVar[tuple[Parameter, ...]] = (UNITS_BY, _PERCEPTRON)
    pays: ClassVar[str] = "in time and size of transformers"

    def look(self, module: Any, example: Any) -> Prunable:
        """Find the attention whose heads can go, and the perceptrons."""
        probe = Probe(module, example)
        found, reasons = find_attention(probe)
        if not found:
            known = "neither torch.nn.MultiheadAttention nor linear layers for query, key and value"
            return Prunable(why_not="; ".join(reasons) or f"the model has no attention that is known: {known}")
        widths = tuple(each.width for each in find_perceptrons(probe))
        return Prunable(sizes=tuple(each.heads for each in found), beside=widths)

    def knobs_for(self, profile: WorkloadProfile) -> tuple[Parameter, ...]:
        """Without perceptrons there is nothing of theirs to remove."""
        widths = profile.prunable.get(self.structure, Prunable()).beside
        return self.parameters if any(width > _ALIGNMENT for width in widths) else (UNITS_BY,)

    def amount_for(self, profile: WorkloadProfile) -> Number:
        """With less than four heads, whole heads are other shares."""
        fewest = min(profile.prunable[self.structure].sizes)
        return self.amount if fewest >= 4 else shares(fewest, 2, _AMOUNT)

    def reads_data(self, values: dict[str, Scalar]) -> bool:
        return is_taylor(values)

    def prune(
        self, module: Any, example: Any, amount: float, values: dict[str, Scalar], *,
        data: PruningData | None = None, between: Callable[[Any], None] | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Remove heads and inner units; what the model answers is what it would answer with them silenced."""
        score = element_scores(module, str(values["importance"]), data)
        probe = Probe(module, example)
        found, reasons = find_attention(probe)
        share = float(values.get("perceptron_amount", 0.0))
        perceptrons = list(find_perceptrons(probe)) if share else []
        attending = [(item, _kept_heads(module, item, amount, score)) for item in found]
        attending = [(item, kept) for item, kept in attending if len(kept) < item.heads]
        if not attending:
            raise UnsupportedError(f"no head can be removed: {'; '.join(reasons) or f'{amount:.0%} of them is none'}")
        inner = [(item, _kept_units(module, item, share, score)) for item in perceptrons]
        _remove(module, example, attending, [(item, kept) for item, kept in inner if len(kept) < item.width])
        heads = {item.name: _others(item.heads, kept) for item, kept in attending}
        units = {item.reader: _others(item.width, kept) for item, kept in inner}
        replaced = {item.name: SLIM for item, _ in attending if not item.projections}
        return {"structure": self.structure, "heads": heads, "units": units, "replaced": replaced}


def _kept_heads(module: Any, attention: Attention, amount: float, score: _Score) -> list[int]:
    """Return the most important heads: by what makes them, and by what reads them."""
    layer, heads, width = module.get_submodule(attention.name), attention.heads, attention.head_width
    if attention.projections:
        weights = [module.get_submodule(name).weight for name in attention.projections]
        output = module.get_submodule(attention.output).weight
    else:
        weights, output = [layer.in_proj_weight], layer.out_proj.weight
    made = sum(score(weight).reshape(-1, heads, width, weight.shape[1]).sum((0, 2, 3)) for weight in weights)
    scores = made + score(output).reshape(-1, heads, width).sum((0, 2))
    return best(scores.tolist(), max(1, round(heads * (1 - amount))))


def _kept_units(module: Any, item: Perceptron, amount: float, score: _Score) -> list[int]:
    made = sum(score(module.get_submodule(name).weight).sum(1) for name in item.inner)
    scores = made + score(module.get_submodule(item.reader).weight).sum(0)
    return best(scores.tolist(), kept_width(item.width, amount, _ALIGNMENT))


def _remove(
    module: Any, example: Any, attending: Sequence[tuple[Attention, list[int]]],
    inner: Sequence[tuple[Perceptron, list[int]]],
) -> None:  # fmt: skip
    """Leave these heads and units. Whether attributes that may be the width of all heads follow them is tried out."""
    rows = [row for item, kept in attending for row in item.content(module, _others(item.heads, kept))]
    for item, kept in inner:
        gone = _others(item.width, kept)
        rows += [row for name in item.inner for row in linear_rows(module.get_submodule(name), gone)]
    problem: UnsupportedError | None = None
    for widths in (WIDTHS, ()):
        smaller = copy.deepcopy(module)
        for attention, kept in attending:
            _leave_heads(smaller, attention, kept, widths)
        for perceptron, kept in inner:
            for name in perceptron.inner:
                keep_rows(smaller.get_submodule(name), kept)
            keep_columns(smaller.get_submodule(perceptron.reader), kept)
        try:
            adopt(module, smaller, example, rows, "heads leave")
            return
        except UnsupportedError as error:
            problem = problem or error
    raise problem or UnsupportedError("no head can be removed")


def _leave_heads(module: Any, attention: Attention, kept: Sequence[int], widths: Sequence[str]) -> None:
    from evaluators.pruners.layers import replace_layer

    features = attention.features(kept)
    if not attention.projections:
        replace_layer(module, attention.name, SLIM)
    layer = module.get_submodule(attention.name)
    names = [name.rpartition(".")[2] for name in attention.projections] or ["query", "key", "value"]
    for name in names:
        keep_rows(getattr(layer, name), features)
    keep_columns(module.get_submodule(attention.output) if attention.output else layer.out_proj, features)
    setattr(layer, attention.count_attribute, len(kept))
    for name in widths if attention.projections else ():
        if getattr(layer, name, None) == attention.heads * attention.head_width:
            setattr(layer, name, len(features))


def _others(count: int, kept: Sequence[int]) -> list[int]:
    return sorted(set(range(count)) - set(kept))
