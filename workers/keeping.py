"""Keeping: what a home is told once and keeps in mind — its shared store — and what it takes from elsewhere."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from evaluators.errors import UsageError
from workers.store import Store

STORE = "store.url"

DEFAULT_CACHE_BYTES = 20 * 10**9
"""So much of a disk the stage cache of a home takes unless told."""


@dataclass(frozen=True)
class Keeping:
    """How a process treats its home.

    Attributes:
        cache_limit_bytes: what was used longest ago leaves the stage cache when it is larger; None for no limit.
        uploads: whether workloads that were uploaded may be run here.
    """

    cache_limit_bytes: int | None = DEFAULT_CACHE_BYTES
    uploads: bool = True


def kept_store(home: Path) -> str | None:
    """Return the URL of the store that a home shares with others, or None where it shares nothing."""
    try:
        return (home / STORE).read_text().strip() or None
    except FileNotFoundError:
        return None


def keep_store(home: Path, url: str) -> None:
    """Make a home share a store from now on.

    Raises:
        UsageError: the URL cannot be used, or the home shares another one.
    """
    wanted = url if "://" in url else str(Path(url).expanduser().resolve())
    known = kept_store(home)
    if known is not None and known != wanted:
        raise UsageError(f"home {home} shares another store (see {home / STORE}); name another with --home")
    if known is None:
        Store(wanted)  # refused before it is kept
        home.mkdir(parents=True, exist_ok=True)
        # The URL may hold a password.
        part = home / f"{STORE}.{os.getpid()}"
        part.touch(mode=0o600)
        part.write_text(wanted + "\n")
        part.replace(home / STORE)


def open_store(home: Path) -> Store | None:
    """Open the store that a home shares, if there is one."""
    url = kept_store(home)
    return None if url is None else Store(url)
