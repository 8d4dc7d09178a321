"""Format: what one serving system takes, as data and one function that writes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evaluators.bundle import Manifest
from search.exports.source import Source


@dataclass(frozen=True)
class Options:
    """What a user may say of an export; None where the default is meant."""

    name: str | None = None
    window_ms: float | None = None
    instances: int | None = None


@dataclass(frozen=True)
class Written:
    """What was written: the command that starts it, from within the folder, and what a user should know besides."""

    start: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """One form of a bundle.

    Attributes:
        name: the word of ``--format``.
        about: what it is, for tables.
        refuse: why it cannot carry a bundle, or None if it can.
        write: writes it into an empty folder.
        takes: the options that it honours; others are refused.
    """

    name: str
    about: str
    refuse: Callable[[Manifest], str | None]
    write: Callable[[Source, Path, Options], Written]
    takes: frozenset[str] = frozenset()
