"""Locks: one measurement at a time per device of this host."""

from __future__ import annotations

import os
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from evaluators.errors import InfrastructureError

CLEARING_SECONDS = 1.0
"""So long is a device left alone whose holder was killed: its job, which its warden kills, may still be there."""

_RETRY_SECONDS = 0.1


def lock_folder() -> Path:
    """Return this user's folder for locks that hold across homes, making it where it is missing.

    Raises:
        InfrastructureError: somebody else owns the folder or may write to it.
    """
    folder = Path(tempfile.gettempdir()) / f"paretune-{os.getuid()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InfrastructureError(
            f"{folder} must be a folder that only you may use, and is not; remove it, or set TMPDIR to another place"
        )
    return folder


@contextmanager
def device_lock(
    device: str, *, folder: Path | None = None, wait: Callable[[float], bool] | None = None
) -> Iterator[bool]:
    """Hold a device of this host, ``cpu`` or ``cuda:0``, for the block.

    The kernel takes the lock from a process that is killed at once, and a moment later its job ends: a mark beside the
    lock, which only an orderly end removes, says that this moment must be waited for.

    Args:
        device: the device's id; the same id is the same lock in every search of this user.
        folder: where the lock lives, ``lock_folder()`` unless told.
        wait: sleeps for so many seconds, and returns True to give up.

    Yields:
        Whether the device is held; False only where ``wait`` gave up.
    """
    place = (folder or lock_folder()) / _file_name(device)
    lock, mark = FileLock(place.with_name(f"{place.name}.lock")), place.with_name(f"{place.name}.held")
    pause = wait or _sleep
    held = _try(lock)
    while not held and not pause(_RETRY_SECONDS):
        held = _try(lock)
    if held and mark.exists() and pause(CLEARING_SECONDS):
        held = False
        lock.release()
    try:
        if held:
            with suppress(OSError):  # the disk may be full; the lock itself needs no space
                mark.touch()
        yield held
    finally:
        if held:
            mark.unlink(missing_ok=True)
            lock.release()


def _try(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)
