"""Alive: a file that a part of a fleet touches while it works. A health check looks at its age, which costs nothing.

A check that starts a program of its own, on the very cores that are being measured on, would spoil the measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from evaluators.errors import UsageError


def touching(file: Path | None) -> Callable[[], None]:
    """Return what says "still here": touches ``file``, or does nothing without one.

    Raises:
        UsageError: the file cannot be written.
    """
    if file is None:
        return lambda: None
    try:
        file.touch()
    except OSError as error:
        raise UsageError(f"--alive {file} cannot be written: {error.strerror}") from error
    return file.touch
