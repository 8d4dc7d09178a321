"""The files of a bundle as they lie on disk: plain files of its own, looked at before they are read."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from pathlib import Path

from evaluators.bundle.manifest import MANIFEST, MOST_FILES
from evaluators.bundle.names import why_not_a_name
from evaluators.errors import IntegrityError

MOST_TOTAL_BYTES = 2**38
_KINDS = (
    (stat.S_ISLNK, "a symbolic link"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


def listed_files(folder: Path) -> dict[str, int]:
    """Return the size of every file under ``folder``, by relative path. Opens none of them.

    Raises:
        IntegrityError: there is anything but folders and plain files that have one name only.
        OSError: the folder cannot be listed.
    """
    found: dict[str, int] = {}
    open_folders = [folder]
    while open_folders:
        with os.scandir(open_folders.pop()) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                name = Path(entry.path).relative_to(folder).as_posix()
                facts = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(facts.st_mode):
                    open_folders.append(Path(entry.path))
                    continue
                _refuse_kind(name, facts)
                found[name] = facts.st_size
                if len(found) > MOST_FILES + 1:
                    raise IntegrityError(f"it holds more than {MOST_FILES} files")
    if (why := why_not_a_name(sorted(found))) is not None:
        raise IntegrityError(f"it holds {why}")
    if (total := sum(found.values())) > MOST_TOTAL_BYTES:
        raise IntegrityError(f"its files have {total} bytes, more than {MOST_TOTAL_BYTES}")
    return dict(sorted(found.items()))


def open_file(folder: Path, name: str) -> io.BufferedReader:
    """Open a plain file of a bundle for reading; a link that took its place meanwhile is not followed.

    Raises:
        IntegrityError: it is no plain file with one name, or cannot be read.
    """
    try:
        _refuse_kind(name, os.lstat(folder / name))
        descriptor = os.open(
            folder / name, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        )
    except OSError as error:
        raise IntegrityError(f"{name!r} cannot be read: {error.strerror}") from error
    file = os.fdopen(descriptor, "rb")
    try:
        _refuse_kind(name, os.fstat(descriptor))
    except IntegrityError:
        file.close()
        raise
    return file


def hash_of(folder: Path, name: str) -> str:
    """Return the SHA-256 of one file, hexadecimal."""
    with open_file(folder, name) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file but the manifest, by relative path."""
    return {name: hash_of(folder, name) for name in listed_files(folder) if name != MANIFEST}


def _refuse_kind(name: str, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = next((kind for is_one, kind in _KINDS if is_one(facts.st_mode)), "not a file")
        raise IntegrityError(f"it holds {name!r}, which is {kind}, not a plain file")
    if facts.st_nlink != 1:
        raise IntegrityError(
            f"it holds {name!r}, which is a hard link: the same file has {facts.st_nlink} names, and the others may "
            "lie outside; copy the bundle with cp -r and open the copy"
        )
