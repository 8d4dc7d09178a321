"""The base of every value: frozen, closed to unknown fields, with a canonical JSON and a stable digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


def canonical_json(value: Any) -> str:
    """Serialise ``value`` so that equal values give equal text: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Return the SHA-256 (hexadecimal) of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


class Frozen(BaseModel):
    """A value: immutable, valid by construction, and without fields that nobody declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return self.model_dump(mode="json")


def scalars(values: Mapping[str, Any] | None, of: str) -> dict[str, Any]:
    """Return ``values`` sorted by name after checking that each is a JSON scalar.

    Raises:
        ValueError: a value is not a string, a number or a truth value.
    """
    for name, value in (values or {}).items():
        if not isinstance(value, str | int | float | bool):
            raise ValueError(f"{of}.{name} must be a string, a number or true/false, got {value!r}")
    return dict(sorted((values or {}).items()))
