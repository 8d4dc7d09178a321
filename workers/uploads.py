"""Uploads: a workload's folder as an archive in the shared store, and how it comes to the machines that run trials."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from pathlib import Path

from filelock import FileLock

from evaluators.errors import DamagedError, InfrastructureError, IntegrityError, UploadRefusedError
from evaluators.workload import ARCHIVE, archive_of
from workers.archive import content_digest, digest_file, pack, remove, unpack
from workers.keeping import open_store
from workers.store import Store

_HASH = re.compile(r"[0-9a-f]{64}")
_checked: dict[Path, str] = {}
"""The unpacked folders that this process has looked at, with the digest of their content."""
_checking = threading.Lock()


def unpacked_folder(home: Path) -> Path:
    """Return where a home keeps unpacked archives, by their hash."""
    return home / "cache" / "workloads"


def upload(reference: str, store: Store) -> str:
    """Put the folder of a workload's file into the store, and return the reference by which every machine finds it.

    Raises:
        UsageError: there is too much in the folder, or a file with a name that is not the same everywhere.
        StoreUnreachableError: it could not be put.
    """
    location, _, attribute = reference.rpartition(":")
    file = Path(location).resolve()
    with tempfile.TemporaryDirectory(prefix="paretune-upload-") as scratch:
        archive = Path(scratch) / "workload.tar"
        pack(file.parent, archive)
        sha = store.put_file(archive)
    return f"{ARCHIVE}{sha}/{file.name}:{attribute}"


def bring_workload(reference: str, home: Path, *, allowed: bool = True) -> None:
    """Have the code of an uploaded workload in this home, checked; of any other workload nothing is done.

    The hash of an archive is checked before it is unpacked, and what was unpacked earlier is looked at once by every
    process.

    Raises:
        UploadRefusedError: uploads are not allowed here, or the archive is missing, damaged, or not what it should be.
        StoreUnreachableError: it could not be fetched.
    """
    sha = archive_of(reference)
    if sha is None:
        return
    if not allowed:
        raise UploadRefusedError(f"the workload {reference} was uploaded, and uploads are turned off here "
                                 "(--no-uploads, PARETUNE_NO_UPLOADS)")  # fmt: skip
    if not _HASH.fullmatch(sha):
        raise UploadRefusedError(f"{reference!r} names no archive; the hash must have 64 hexadecimal digits")
    folder = unpacked_folder(home) / sha
    with _checking:
        if _is_whole(folder):
            return
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                if not _is_whole(folder):
                    _fetch(sha, folder, home)
        except DamagedError as error:
            raise UploadRefusedError(f"the archive of {reference} is damaged: {error}; search again") from error
        except IntegrityError as error:
            raise UploadRefusedError(f"the archive of {reference} is refused: {error}") from error
        except OSError as error:
            raise InfrastructureError(f"folder {folder} cannot be written: {error}") from error


def _is_whole(folder: Path) -> bool:
    """Whether a folder holds what was unpacked into it."""
    note = digest_file(folder)
    try:
        os.utime(note)  # in use, for those who evict what is not
        if folder not in _checked:
            _checked[folder] = content_digest(folder)
        return folder.is_dir() and _checked[folder] == note.read_text()
    except (OSError, IntegrityError):
        _checked.pop(folder, None)
        return False


def _fetch(sha: str, folder: Path, home: Path) -> None:
    store = open_store(home)
    if store is None:
        raise IntegrityError(f"home {home} shares no store, so it cannot be fetched; name it with --store URL")
    with tempfile.TemporaryDirectory(prefix="paretune-fetch-") as scratch:
        archive = Path(scratch) / "workload.tar"
        if not store.fetch_file(sha, archive):
            raise IntegrityError(f"it is not in the store {store.url}; search again")
        if folder.exists():
            remove(folder)
        _checked[folder] = unpack(archive, folder)
