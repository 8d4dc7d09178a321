"""Eviction: what a home keeps in its cache, and what leaves it, used longest ago first, where it takes too much."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from evaluators.bundle import MANIFEST
from evaluators.cache import ENTRY
from evaluators.frozen import Frozen
from workers.archive import digest_file, remove
from workers.in_use import oldest_use
from workers.uploads import unpacked_folder

CLOCKS_APART_SECONDS = 60.0
"""How far the clocks of machines that share a home may be apart."""


UNFINISHED = "unfinished"
"""The stage of folders that were being made when their process was killed."""


class Kept(Frozen):
    """One thing that a home keeps.

    Attributes:
        what: a result of a stage, a bundle, or an unpacked workload.
        stage: which stage made it; of a bundle its backend.
        last_used: seconds since the epoch.
        named: a trial or a promotion names it, so that it stays.
    """

    path: str
    what: Literal["stage", "bundle", "workload"]
    stage: str
    size_bytes: int
    last_used: float
    named: bool = False


def kept_stages(home: Path) -> list[Kept]:
    """Return the entries of the stage cache, and the unpacked workloads; also what was never finished."""
    found = []
    for entry in (home / "cache" / "stages").glob("??/*/"):
        found += _kept(entry, "stage", entry / ENTRY, _stage_of(entry))
    for folder in unpacked_folder(home).glob("*/"):
        found += _kept(folder, "workload", digest_file(folder), "workload")
    return found


def kept_bundles(home: Path) -> list[Kept]:
    """Return the bundles of a home, as if nobody named them."""
    found = []
    for folder in (home / "bundles").glob("*/*/"):
        found += _kept(folder, "bundle", folder / MANIFEST, folder.parent.name)
    return found


def chosen_to_leave(kept: Sequence[Kept], limit_bytes: int, in_use_since: float | None) -> list[Kept]:
    """Return what has to leave so that the rest takes at most ``limit_bytes``, used longest ago first.

    What somebody names is neither counted nor chosen; what was used since ``in_use_since`` stays, a trial may need it.
    """
    free = sorted((each for each in kept if not each.named), key=lambda each: (each.last_used, each.path))
    excess, chosen = sum(each.size_bytes for each in free) - limit_bytes, []
    for each in free:
        if excess <= 0:
            break
        if in_use_since is None or each.last_used < in_use_since - CLOCKS_APART_SECONDS:
            chosen.append(each)
            excess -= each.size_bytes
    return chosen


def evict(home: Path, kept: Sequence[Kept], limit_bytes: int) -> list[Kept]:
    """Take what has to leave out of a home, and return what has left."""
    chosen = chosen_to_leave(kept, limit_bytes, oldest_use(home))
    return [each for each in chosen if _take_out(each)]


def hold_limit(home: Path, limit_bytes: int | None) -> list[Kept]:
    """Hold the stage cache of a home to its limit."""
    return [] if limit_bytes is None else evict(home, kept_stages(home), limit_bytes)


def _take_out(each: Kept) -> bool:
    """Move a folder away and remove it, unless it was used in the very meantime: then it is put back."""
    path = Path(each.path)
    aside = path.with_name(f".leaving-{secrets.token_hex(8)}")
    marker = {"stage": aside / ENTRY, "bundle": aside / MANIFEST, "workload": digest_file(path)}[each.what]
    try:
        if each.what == "workload":
            path.chmod(0o755)
        path.rename(aside)
    except OSError:
        return False
    with suppress(OSError):
        if marker.stat().st_mtime != each.last_used:
            aside.rename(path)
            return False
    if each.what == "workload":
        marker.unlink(missing_ok=True)
        remove(aside)
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _kept(folder: Path, what: Literal["stage", "bundle", "workload"], marker: Path, stage: str) -> list[Kept]:
    try:
        used = marker.stat().st_mtime if marker.exists() else folder.stat().st_mtime
        size = sum(os.lstat(path).st_size for path in folder.rglob("*") if path.is_file())
    except OSError:  # somebody else took it out meanwhile
        return []
    stage = UNFINISHED if folder.name.startswith(".") else stage
    return [Kept(path=str(folder), what=what, stage=stage, size_bytes=size, last_used=used)]


def _stage_of(entry: Path) -> str:
    with suppress(OSError, ValueError, AttributeError):
        return str(json.loads((entry / ENTRY).read_text()).get("stage", "other"))
    return "damaged"
