"""Colours by backend (Okabe and Ito's, safe for colour-blind readers) and symbols by pruning structure."""

from __future__ import annotations

from collections.abc import Iterable

# Okabe M., Ito K. (2008), "Color Universal Design": told apart with every kind of colour vision.
_OF_BACKEND = {
    "eager": "#56B4E9",
    "inductor": "#E69F00",
    "onnxruntime": "#0072B2",
    "openvino": "#009E73",
    "tensorrt": "#D55E00",
    "coreml": "#CC79A7",
}
_OTHERS = ("#8C6D31", "#7F7F7F", "#9467BD", "#B8A200")
_OF_STRUCTURE = {"none": "circle", "unstructured": "diamond", "channel": "square"}
_OTHER_SYMBOLS = ("triangle-up", "pentagon", "hexagon")
MATPLOTLIB_SYMBOLS = {
    "circle": "o", "diamond": "D", "square": "s", "triangle-up": "^", "pentagon": "p", "hexagon": "h",
}  # fmt: skip

LIMIT = "#C44536"
NEUTRAL = "#7A8490"
STAR = "#F2B705"


def colours(backends: Iterable[str]) -> dict[str, str]:
    """Return a colour for every backend, sorted by name; ours keep theirs in every search."""
    return _assigned(backends, _OF_BACKEND, _OTHERS)


def symbols(structures: Iterable[str]) -> dict[str, str]:
    """Return a plotly symbol for every pruning structure, unpruned first."""
    return _assigned(structures, _OF_STRUCTURE, _OTHER_SYMBOLS)


def _assigned(names: Iterable[str], known: dict[str, str], others: tuple[str, ...]) -> dict[str, str]:
    found = set(names)
    foreign = sorted(found - known.keys())
    chosen = {name: known[name] for name in known if name in found}
    return chosen | {name: others[i % len(others)] for i, name in enumerate(foreign)}
