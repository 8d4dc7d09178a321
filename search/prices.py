"""Prices: what an hour of a target costs, how users write it, and what a million inferences cost for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from evaluators.errors import UsageError
from evaluators.target import device_of


def priced_targets(value: Any) -> Any:
    """Read targets, each perhaps with its price per hour, in any form: ``a=0.17,b=0.12``, a list, or a mapping."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, Mapping):
        return tuple(str(name) if price is None else f"{name}={price}" for name, price in value.items())
    if not isinstance(value, list | tuple):
        return value
    return tuple(part for item in value for part in (priced_targets(item) if isinstance(item, Mapping) else (item,)))


def named_price(target: str) -> tuple[str, float | None]:
    """Read ``cpu-arm64`` or ``cpu-arm64=0.12``, the price of an hour in any currency.

    Raises:
        ValueError: no target has such a name, or the price is no price.
    """
    name, separator, text = (part.strip() for part in target.partition("="))
    try:
        device_of(name)
    except UsageError as error:
        raise ValueError(str(error)) from None
    if not separator:
        return name, None
    try:
        price = float(text)
    except ValueError:
        raise ValueError(
            f"the price of {name} is {text!r}; write what an hour of it costs, as in {name}=0.12"
        ) from None
    if not 0 < price < math.inf:
        raise ValueError(f"the price of {name} is {text}; it must be above zero")
    return name, price


def cost_per_million(price_per_hour: float | None, throughput_per_s: float | None) -> float | None:
    """Return what a million inferences cost on a machine that does nothing else, in the currency of the price."""
    if price_per_hour is None or not throughput_per_s:
        return None
    return price_per_hour / (throughput_per_s * 3600) * 1e6
