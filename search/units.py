"""Durations and sizes as people write them: ``5ms``, ``1us``, ``2m``, ``10MB``."""

from __future__ import annotations

import re
from decimal import Decimal

_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "min": 6e4, "h": 3.6e6}
_BYTES = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Zµ]*)\s*")


def milliseconds(value: str | float, *, bare: str = "ms") -> float:
    """Parse a duration; a number without a unit is in ``bare``.

    Raises:
        ValueError: it is not a positive number with a known unit.
    """
    return _parse(value, _MILLISECONDS, bare, "a duration such as 5ms, 200us, 1.5s or 2m")


def seconds(value: str | float) -> float:
    """Parse a duration in seconds; a number without a unit is in seconds."""
    return milliseconds(value, bare="s") / 1e3


def milliseconds_or_none(value: str | float) -> float:
    """Parse a duration in milliseconds that may be 0: no time at all."""
    text = str(value).strip()
    if text.rstrip("abcdefghijklmnopqrstuvwxyzµ ") in ("0", "0.0"):
        milliseconds("1" + text.lstrip("0."))
        return 0.0
    return milliseconds(value)


def per_second(value: str | float) -> float:
    """Parse a rate: ``50/s``, ``3000/min``; a number without a unit is per second.

    Raises:
        ValueError: it is not a positive number with a known unit.
    """
    text, wanted = str(value).strip(), "a rate such as 50/s or 3000/min"
    number, _, unit = text.partition("/")
    seconds_of = {"": 1.0, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
    try:
        rate = float(number) / seconds_of[unit.strip().lower()]
    except (ValueError, KeyError):
        raise ValueError(f"{value!r} is not {wanted}") from None
    if not 0 < rate < float("inf"):
        raise ValueError(f"{value!r} is not {wanted}")
    return rate


def share(value: str | float) -> float:
    """Parse a share written as a number or in percent: ``0.95``, ``95%``.

    Raises:
        ValueError: it is neither.
    """
    text = str(value).strip()
    try:
        return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError(f"{value!r} is not a share such as 0.95 or 95%") from None


def size_bytes(value: str | float) -> int:
    """Parse a size; a number without a unit is in bytes."""
    wanted = "a size such as 800KB or 10MB"
    parsed = int(_parse(value, _BYTES, "b", wanted))
    if parsed < 1:
        raise ValueError(f"{value!r} is not {wanted}")
    return parsed


def show_ms(value: float | None) -> str:
    """Write a latency with three significant digits and a fitting unit."""
    if value is None:
        return "–"
    return f"{value * 1e3:.3g} µs" if value < 0.1 else f"{value:.3g} ms" if value < 1e3 else f"{value / 1e3:.3g} s"


def show_bytes(value: float | None) -> str:
    """Write a size in kB or MB."""
    if value is None:
        return "–"
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.0f} kB"


def _parse(value: str | float, units: dict[str, float] | dict[str, int], bare: str, wanted: str) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = format(Decimal(repr(value)), "f")
    match = _NUMBER_AND_UNIT.fullmatch(str(value))
    unit = (match.group(2).lower() or bare) if match else ""
    if match is None or unit not in units or not float(match.group(1)) > 0:
        raise ValueError(f"{value!r} is not {wanted}")
    return float(match.group(1)) * units[unit]
