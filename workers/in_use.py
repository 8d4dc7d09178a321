"""In use: which trials and other jobs run in a home, so that nobody evicts what they use."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evaluators.errors import InfrastructureError


@contextmanager
def using(home: Path) -> Iterator[None]:
    """Say for the block that a trial runs in this home; the file is locked, so that a dead process is no user.

    Raises:
        InfrastructureError: the home cannot be written.
    """
    folder = home / "cache" / "in-use"
    path = folder / f"{os.getpid()}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(path)
    except OSError as error:
        raise InfrastructureError(f"the folder {folder} cannot be written: {error}") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def oldest_use(home: Path) -> float | None:
    """Return when the trial that has run longest in this home began, in seconds since the epoch; None without one."""
    begun = []
    for path in (home / "cache" / "in-use").glob("*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
            except BlockingIOError:
                begun.append(os.fstat(descriptor).st_mtime)
            finally:
                os.close(descriptor)
    return min(begun, default=None)


def _locked(path: Path) -> int:
    """Make a file and lock it; where somebody took it for one of the dead before it was locked, make it again."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        os.close(descriptor)
