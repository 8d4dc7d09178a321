"""Attention and perceptrons in a model: where they are, which weights make a head or an inner unit, who reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.pruners.silencing import Probe, Rows

_NAMES = (
    ("query", "key", "value"), ("q_proj", "k_proj", "v_proj"), ("q", "k", "v"), ("to_q", "to_k", "to_v"),
    ("q_lin", "k_lin", "v_lin"), ("wq", "wk", "wv"), ("query_proj", "key_proj", "value_proj"),
)  # fmt: skip
"""What linear layers that make queries, keys and values are called, in common libraries."""

_COUNTS = ("num_heads", "num_attention_heads", "heads", "n_heads", "nheads", "nhead", "n_head")
"""What the number of heads is called; where it is no attribute of the module, its code has it written down."""

WIDTHS = ("all_head_size", "inner_dim", "dim")
"""What the width of all heads together is called, where a module keeps it beside the number of heads."""


@dataclass(frozen=True)
class Attention:
    """One attention: its module, and how its heads are found.

    ``projections`` are the names of query, key and value; empty for ``torch.nn.MultiheadAttention``.
    """

    name: str
    heads: int
    head_width: int
    count_attribute: str
    projections: tuple[str, ...] = ()
    output: str = ""

    def features(self, heads: Sequence[int]) -> list[int]:
        """Return which features these heads are."""
        return [head * self.head_width + i for head in heads for i in range(self.head_width)]

    def content(self, module: Any, heads: Sequence[int]) -> Rows:
        """Return the rows that make the values of these heads: without them, the heads answer zero."""
        features = self.features(heads)
        if not self.projections:
            layer = module.get_submodule(self.name)
            rows = [2 * self.heads * self.head_width + feature for feature in features]
            return [(weight, rows) for weight in (layer.in_proj_weight, layer.in_proj_bias) if weight is not None]
        return linear_rows(module.get_submodule(self.projections[2]), features)


@dataclass(frozen=True)
class Perceptron:
    """Linear layers whose outputs meet in one inner width, and the linear layer that reads it."""

    inner: tuple[str, ...]
    reader: str
    width: int


def linear_rows(layer: Any, rows: Sequence[int]) -> Rows:
    """Return rows of a linear layer's weight and bias."""
    return [(weight, rows) for weight in (layer.weight, layer.bias) if weight is not None]


def find_attention(probe: Probe) -> tuple[list[Attention], list[str]]:
    """Return every attention whose heads can go, and why others that look like one cannot."""
    import torch

    found, reasons = [], []
    for name, layer in probe.module.named_modules():
        if isinstance(layer, torch.nn.MultiheadAttention):
            why = _refused_multihead(layer) if name else "it is the whole model"
            head_width = layer.embed_dim // layer.num_heads
            item = Attention(name, layer.num_heads, head_width, "num_heads")
        elif (names := _projections(layer)) is not None:
            item, why = _projected(probe, name, layer, names)
        else:
            continue
        if why is None and item.heads < 2:
            why = "it has one head"
        if why is None:
            found.append(item)
        else:
            reasons.append(f"{name or 'the model'}: {why}")
    return found, reasons


def find_perceptrons(probe: Probe) -> Iterator[Perceptron]:
    """Yield the perceptrons: linear layers that widen, read by one linear layer that narrows."""
    import torch

    linear = {name: layer for name, layer in probe.module.named_modules() if isinstance(layer, torch.nn.Linear)}
    inner: dict[str, list[str]] = {}
    for name, layer in linear.items():
        width = layer.out_features
        if width <= layer.in_features or not any(other.in_features == width for other in linear.values()):
            continue
        even = range(0, width, 2)
        reading = probe.readers(linear_rows(layer, even), {"all": (width, even)})
        if len(reading) == 1:
            inner.setdefault(next(iter(reading)), []).append(name)
    for reader, names in inner.items():
        yield Perceptron(tuple(names), reader, linear[reader].in_features)


def _projections(layer: Any) -> tuple[str, str, str] | None:
    import torch

    children = {name for name, child in layer.named_children() if isinstance(child, torch.nn.Linear)}
    return next((names for names in _NAMES if children.issuperset(names)), None)


def _refused_multihead(layer: Any) -> str | None:
    if layer.in_proj_weight is None:
        return "its keys or values have a width of their own (kdim, vdim)"
    if layer.bias_k is not None or layer.add_zero_attn:
        return "it adds keys of its own (add_bias_kv, add_zero_attn)"
    return None


def _projected(probe: Probe, name: str, layer: Any, names: tuple[str, str, str]) -> tuple[Attention, str | None]:
    widths = {getattr(layer, each).out_features for each in names}
    width = max(widths)
    none = Attention(name, 1, width, "")
    attribute = next((each for each in _COUNTS if type(getattr(layer, each, None)) is int), None)
    if attribute is None:
        return none, f"the number of its heads is no attribute ({', '.join(_COUNTS[:3])}, …), so it cannot be changed"
    if len(widths) > 1:
        return none, "its queries, keys and values are not equally wide"
    heads = getattr(layer, attribute)
    if heads < 1 or width % heads:
        return none, f"{attribute} is {heads}, which does not divide its width of {width}"
    prefix = f"{name}." if name else ""
    item = Attention(name, heads, width // heads, attribute, tuple(prefix + each for each in names))
    silent = range(0, heads, 2)
    reading = probe.readers(item.content(probe.module, silent), {"all": (width, item.features(silent))})
    outputs = [each for each in reading if each not in item.projections]
    if heads > 1 and len(outputs) != 1:
        return none, "no linear layer reads its heads as they are"
    return Attention(name, heads, width // heads, attribute, item.projections, "".join(outputs)), None
