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
from evaluators.pruners.silencing import Rows, adopt, keep_columns, keep_rows
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
        found, reasons = find_attention(module, example)
        if not found:
            known = "neither torch.nn.MultiheadAttention nor linear layers for query, key and value"
            return Prunable(why_not="; ".join(reasons) or f"the model has no attention that is known: {known}")
        widths = tuple(each.width for each in find_perceptrons(module, example))
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
        found, reasons = find_attention(module, example)
        share = float(values.get("perceptron_amount", 0.0))
        perceptrons = list(find_perceptrons(module, example)) if share else []
        attending = [(item, _kept_heads(module, item, amount, score)) for item in found]
        attending = [(item, kept) for item, kept in attending if len(kept) < item.heads]
        if not attending:
            raise UnsupportedError(f"no head can be removed: {'; '.join(reasons) or f'{amount:.0%} of them is none'}")
        inner = [(item, _kept_units(module, item, share, score)) for item in perceptrons]
        for attention, kept in attending:
            _remove_heads(module, attention, kept, example)
        for perceptron, kept in inner:
            if len(kept) < perceptron.width:
                _remove_units(module, perceptron, kept, example)
        heads = {item.name: sorted(set(range(item.heads)) - set(kept)) for item, kept in attending}
        units = {item.reader: sorted(set(range(item.width)) - set(kept)) for item, kept in inner}
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


def _remove_heads(module: Any, attention: Attention, kept: Sequence[int], example: Any) -> None:
    from evaluators.pruners.layers import replace_layer

    rows = attention.content(module, sorted(set(range(attention.heads)) - set(kept)))
    features, what = attention.features(kept), f"heads leave {attention.name or 'the model'}"
    if not attention.projections:
        smaller = copy.deepcopy(module)
        replace_layer(smaller, attention.name, SLIM)
        slim: Any = smaller.get_submodule(attention.name)
        for layer in (slim.query, slim.key, slim.value):
            keep_rows(layer, features)
        keep_columns(slim.out_proj, features)
        slim.num_heads = len(kept)
        adopt(module, smaller, example, rows, what)
        return
    problem: UnsupportedError | None = None
    for widths in (WIDTHS, ()):
        smaller = _with_heads(module, attention, features, len(kept), widths)
        try:
            adopt(module, smaller, example, rows, what)
            return
        except UnsupportedError as error:
            problem = problem or error
    raise problem or UnsupportedError(what)


def _with_heads(module: Any, attention: Attention, features: list[int], count: int, widths: Sequence[str]) -> Any:
    """Return a copy with these heads; of the attributes ``widths``, those that are the width of all heads follow."""
    smaller = copy.deepcopy(module)
    layer = smaller.get_submodule(attention.name)
    for name in attention.projections:
        keep_rows(smaller.get_submodule(name), features)
    keep_columns(smaller.get_submodule(attention.output), features)
    setattr(layer, attention.count_attribute, count)
    for name in widths:
        if getattr(layer, name, None) == attention.heads * attention.head_width:
            setattr(layer, name, len(features))
    return smaller


def _remove_units(module: Any, item: Perceptron, kept: Sequence[int], example: Any) -> None:
    gone = sorted(set(range(item.width)) - set(kept))
    rows: Rows = [row for name in item.inner for row in linear_rows(module.get_submodule(name), gone)]
    smaller = copy.deepcopy(module)
    for name in item.inner:
        keep_rows(smaller.get_submodule(name), kept)
    keep_columns(smaller.get_submodule(item.reader), kept)
    adopt(module, smaller, example, rows, f"inner units leave {', '.join(item.inner)}")
