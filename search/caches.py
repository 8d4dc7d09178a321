"""Caches: what a home keeps beside its ledger, and what leaves it: ``paretune cache ls`` and ``gc``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from evaluators.frozen import Frozen
from search.api import open_ledger
from workers.eviction import Kept, chosen_to_leave, evict, kept_bundles, kept_stages
from workers.in_use import oldest_use
from workers.keeping import kept_store
from workers.store import shown

FOLDERS = ("inductor", "examples", "code")
"""Folders of the cache that are no results of stages; they are shown, and never evicted."""


class CacheRow(Frozen):
    """Things of one kind that a home keeps.

    Attributes:
        what: ``stage``, ``bundle``, ``workload`` (unpacked), or ``other``, which is never evicted.
        name: of the stage, the backend or the folder.
        entries / size_bytes: how many there are, and what they take.
        named: how many of them a trial or a promotion names: those stay.
        last_used: of the one used last, in seconds since the epoch; null where nobody can tell.
    """

    what: str
    name: str
    entries: int
    size_bytes: int
    named: int = 0
    last_used: float | None = None


class CacheReport(Frozen):
    """What a home keeps, and the ``store`` that it shares (empty without one).

    ``evictable_bytes`` is what counts against the limit.
    """

    home: str
    store: str
    limit_bytes: int | None
    evictable_bytes: int
    rows: tuple[CacheRow, ...]


class GcReport(Frozen):
    """What has left a home, or would leave it; ``kept_bytes`` is what remains of what counts against the limit.

    ``in_use_since`` is when the trial began that has run longest here: what was used since then stays.
    """

    home: str
    dry_run: bool
    limit_bytes: int | None
    left: tuple[Kept, ...]
    left_bytes: int
    kept_bytes: int
    in_use_since: float | None


def look_at(home: Path, limit_bytes: int | None) -> CacheReport:
    """Return what a home keeps, by stage and by backend."""
    kept = _everything(home)
    groups: dict[tuple[str, str], list[Kept]] = {}
    for each in kept:
        groups.setdefault((each.what, each.stage), []).append(each)
    rows = [
        CacheRow(what=what, name=name, entries=len(group), size_bytes=_bytes(group),
                 named=sum(each.named for each in group), last_used=max(each.last_used for each in group))
        for (what, name), group in sorted(groups.items())
    ]  # fmt: skip
    return CacheReport(
        home=str(home), store=shown(kept_store(home)), limit_bytes=limit_bytes, evictable_bytes=_evictable(kept),
        rows=(*rows, *_others(home)),
    )  # fmt: skip


def collect(home: Path, limit_bytes: int | None, *, dry_run: bool = False) -> GcReport:
    """Evict what was used longest ago until the rest is within the limit; nothing where there is no limit.

    Never what a trial that runs in this home uses, nor a bundle that a trial or a promotion names.
    """
    kept, since = _everything(home), oldest_use(home)
    left: Sequence[Kept] = ()
    if limit_bytes is not None:
        left = chosen_to_leave(kept, limit_bytes, since) if dry_run else evict(home, kept, limit_bytes)
    return GcReport(
        home=str(home), dry_run=dry_run, limit_bytes=limit_bytes, left=tuple(left), left_bytes=_bytes(left),
        kept_bytes=_evictable(kept) - _bytes(left), in_use_since=since,
    )  # fmt: skip


def _everything(home: Path) -> list[Kept]:
    # The bundles first: one that is named between the two looks must not seem to be nobody's.
    bundles = kept_bundles(home)
    with open_ledger(home) as ledger:
        named = ledger.named_bundles()
    marked = [each.model_copy(update={"named": "/".join(Path(each.path).parts[-2:]) in named}) for each in bundles]
    return [*kept_stages(home), *marked]


def _others(home: Path) -> list[CacheRow]:
    rows = []
    for name in FOLDERS:
        files = [path for path in (home / "cache" / name).rglob("*") if path.is_file()]
        if files:
            size = 0
            for path in files:
                with suppress(OSError):
                    size += os.lstat(path).st_size
            rows.append(CacheRow(what="other", name=name, entries=len(files), size_bytes=size))
    return rows


def _bytes(kept: Iterable[Kept]) -> int:
    return sum(each.size_bytes for each in kept)


def _evictable(kept: Iterable[Kept]) -> int:
    return _bytes(each for each in kept if not each.named)
