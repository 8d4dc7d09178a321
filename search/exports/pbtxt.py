"""Protocol buffers as text, as Triton reads its model configurations."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


class Word(str):
    """A word that is written without quotes: a value of an enumeration."""


def pbtxt(message: Mapping[str, Any], depth: int = 0) -> str:
    """Write a message: mappings are messages, sequences are repeated fields, None is left out.

    Strings are written as JSON writes them, in ASCII, which the text format reads alike.
    """
    lines = []
    for name, value in message.items():
        repeated = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        lines += [_field(name, each, depth) for each in repeated if each is not None]
    return "".join(lines)


def _field(name: str, value: Any, depth: int) -> str:
    indent = "  " * depth
    if isinstance(value, Mapping):
        return f"{indent}{name} {{\n{pbtxt(value, depth + 1)}{indent}}}\n"
    if isinstance(value, bool):
        return f"{indent}{name}: {str(value).lower()}\n"
    return f"{indent}{name}: {json.dumps(value) if isinstance(value, str) and not isinstance(value, Word) else value}\n"
