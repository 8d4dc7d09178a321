"""Plan and recipe of an eager bundle: JSON that names layers, sizes and types, and nothing that could be anything else.

Both become attributes of a module and of torch, so names are held to what they may be.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from evaluators.bundle.manifest import plain_json
from evaluators.bundle.tree import open_file
from evaluators.errors import IntegrityError

MOST_BYTES = 64 * 2**20
SIZES = (
    "in_channels", "out_channels", "in_features", "out_features", "num_features", "groups", "normalized_shape",
    "num_channels", "hidden_size", "input_size", "num_heads", "embed_dim", "num_parameters",
    "heads", "n_heads", "nheads", "nhead", "n_head", "num_attention_heads", "all_head_size", "inner_dim", "dim",
)  # fmt: skip
"""The attributes of layers that pruning may change."""

PASSED, SLIM = "passed_through", "slim_attention"
"""What may stand in the place of a layer: nothing but its first input, or attention with fewer heads."""

_TYPES = frozenset(("quint8", "qint8", "qint32", "uint8", "int8", "int32", "float16", "bfloat16", "float32"))
_ACTIVATION = {"scale": (int, float), "zero_point": (int,), "dtype": (str,), "quant_min": (int,), "quant_max": (int,)}
_WORD = re.compile(r"[A-Za-z0-9_]{0,64}")
_LAYER = re.compile(r"[A-Za-z0-9_\-.]{0,500}")


def check_json(folder: Path, name: str) -> Any:
    """Return the value of a JSON file that nobody vouches for."""
    with open_file(folder, name) as file:
        return plain_json(file.read(MOST_BYTES + 1), MOST_BYTES, name)


def check_plan(folder: Path, name: str) -> None:
    """See that a plan changes nothing but the sizes of layers and which of them stay, and shares nothing but tensors.

    Raises:
        IntegrityError: it names another attribute, a value that is no size, or another layer in the place of one.
    """
    plan = check_json(folder, name)
    for layer, word in _part(plan, "replaced", name).items():
        _refuse_layer(layer, name)
        if word not in (PASSED, SLIM):
            raise IntegrityError(f"{name} puts {str(word)[:100]!r} in the place of {layer!r}; known: {PASSED}, {SLIM}")
    attributes, shared = _part(plan, "attributes", name), _part(plan, "shared", name)
    for layer, sizes in attributes.items():
        _refuse_layer(layer, name)
        if not isinstance(sizes, dict):
            raise IntegrityError(f"{name}: the sizes of layer {layer!r} must be an object")
        for key, value in sizes.items():
            if key not in SIZES:
                raise IntegrityError(f"{name} sets {key[:100]!r} of layer {layer!r}; it may set {', '.join(SIZES)}")
            if not all(
                type(item) is int and 0 <= item < 2**31 for item in (value if isinstance(value, list) else [value])
            ):
                raise IntegrityError(f"{name} sets {key!r} of layer {layer!r} to {str(value)[:100]}, which is no size")
    for tensor, source in shared.items():
        _refuse_layer(tensor, name)
        _refuse_layer(source, name)


def check_recipe(folder: Path, name: str) -> None:
    """See that a recipe of quantization holds words, numbers, and the ranges of activations by their layer.

    Raises:
        IntegrityError: it holds anything else.
    """
    recipe = check_json(folder, name)
    for layer, facts in _part(recipe, "activations", name).items():
        _refuse_layer(layer, name)
        if not isinstance(facts, dict) or not facts.keys() <= _ACTIVATION.keys():
            raise IntegrityError(f"{name}: activation {layer!r} may have {', '.join(_ACTIVATION)} and nothing else")
        for key, value in facts.items():
            if type(value) not in _ACTIVATION[key]:
                raise IntegrityError(f"{name}: {key} of activation {layer!r} is {str(value)[:100]!r}")
        if facts.get("dtype", "qint8") not in _TYPES:
            raise IntegrityError(f"{name}: {facts['dtype'][:100]!r} of activation {layer!r} is no type of numbers")
    for key, value in recipe.items():
        if isinstance(value, str) and not _WORD.fullmatch(value):
            raise IntegrityError(f"{name}: {key[:100]!r} is {value[:100]!r}, which is no word")


def _part(value: Any, key: str, name: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not isinstance(part := value.get(key, {}), dict):
        raise IntegrityError(f"{name} must be an object, and so must its {key!r}")
    return part


def _refuse_layer(value: Any, name: str) -> None:
    if not isinstance(value, str) or not _LAYER.fullmatch(value) or "__" in value.rpartition(".")[2]:
        raise IntegrityError(f"{name} names the layer {str(value)[:100]!r}, which no module has")
