"""StageCache: results of stages by content, so that trials that share a prefix share its work.

An entry is a folder that appears whole or not at all: it is made under a temporary name, synced, and renamed.
Its ``entry.json`` holds the hash of every file; an entry that does not match is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evaluators.errors import InfrastructureError, IntegrityError
from evaluators.frozen import canonical_json

ENTRY = "entry.json"

# Share the blocks of another file: linux/fs.h.
_FICLONE = 0x40049409


@dataclass(frozen=True)
class Entry:
    """A cached result: its folder, the digest of its contents, and whether it was there already.

    ``seconds`` is what making it took, whenever and wherever that was; None where that was not noted.
    """

    folder: Path
    digest: str
    hit: bool
    seconds: float | None = None

    @property
    def key(self) -> str:
        """What it is found by."""
        return self.folder.name


class StageCache:
    """Folders by key under ``root``. Several processes may use one cache: the first to finish wins."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.used: dict[str, str] = {}
        """The keys of all entries that were asked for, each with its stage."""

    def get(self, key: str, what: str) -> Entry:
        """Return the entry of ``key``, which somebody else has made; ``what`` it holds, in words.

        Raises:
            InfrastructureError: there is none any more.
        """
        folder = self._root / key[:2] / key
        if (digest := _verified(folder)) is None:
            raise InfrastructureError(f"{what} is not in the stage cache {self._root} any more: run the trial again")
        return Entry(folder, digest, hit=True, seconds=_seconds(folder))

    def get_or_make(self, key: str, make: Callable[[Path], None], stage: str = "other") -> Entry:
        """Return the entry of ``key``; where there is none, let ``make`` fill a new folder.

        ``stage`` says what kind of result it is, to people and to those who share it with other machines.

        Raises:
            InfrastructureError: the cache cannot be written (disk full, no permission).
        """
        folder = self._root / key[:2] / key
        self.used[key] = stage
        if (digest := _verified(folder)) is not None:
            return Entry(folder, digest, hit=True, seconds=_seconds(folder))
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=folder.parent))
        except OSError as error:
            raise InfrastructureError(f"stage cache {self._root} cannot be written: {error}") from error
        try:
            start = time.perf_counter()
            make(temporary)
            seconds = time.perf_counter() - start
            digest = _seal(temporary, stage, seconds)
            if folder.exists():
                shutil.rmtree(folder, ignore_errors=True)
            try:
                temporary.rename(folder)
            except OSError:
                if _verified(folder) is None:
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return Entry(folder, digest, hit=False, seconds=seconds)


def file_hashes(folder: Path, leave_out: str) -> dict[str, str]:
    """Return the SHA-256 of every plain file under ``folder`` but ``leave_out``, by relative path.

    Raises:
        IntegrityError: the folder holds a link or something else that is not a plain file.
    """
    hashes: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise IntegrityError(f"{folder.name} holds {path.name!r}, which is not a plain file")
        if path.is_file() and path.relative_to(folder).as_posix() != leave_out:
            with path.open("rb") as file:
                hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def copy_file(source: Path, destination: Path) -> None:
    """Copy a file; where the file system can (Btrfs, XFS) both share their blocks until one is written to.

    Never a link: a bundle whose file has a second name elsewhere is refused.
    """
    with source.open("rb") as original, destination.open("wb") as copy:
        if sys.platform == "linux":
            import fcntl

            with suppress(OSError):
                fcntl.ioctl(copy.fileno(), _FICLONE, original.fileno())
                return
        shutil.copyfileobj(original, copy, 2**20)


def is_whole(folder: Path) -> bool:
    """Whether a folder is an entry whose files are those that it lists."""
    return _verified(folder) is not None


def _seconds(folder: Path) -> float | None:
    """Return what making a verified entry took; entries of earlier versions do not say."""
    seconds = json.loads((folder / ENTRY).read_text()).get("seconds")
    return float(seconds) if isinstance(seconds, int | float) else None


def _seal(folder: Path, stage: str, seconds: float) -> str:
    hashes = file_hashes(folder, leave_out=ENTRY)
    facts = {"files": hashes, "made": time.time(), "seconds": round(seconds, 4), "stage": stage}
    (folder / ENTRY).write_text(json.dumps(facts))
    for name in (*hashes, ENTRY):
        descriptor = os.open(folder / name, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return hashlib.sha256(canonical_json(hashes).encode()).hexdigest()


def _verified(folder: Path) -> str | None:
    """Return the digest of an entry whose files are those that it lists, else None; it counts as used now."""
    try:
        # Before the files are looked at: whoever evicts what was not used for long looks at this time last.
        with suppress(OSError):
            os.utime(folder / ENTRY)
        listed = json.loads((folder / ENTRY).read_text())["files"]
        if file_hashes(folder, leave_out=ENTRY) != listed:
            return None
    except (OSError, ValueError, KeyError, IntegrityError):
        return None
    return hashlib.sha256(canonical_json(listed).encode()).hexdigest()
