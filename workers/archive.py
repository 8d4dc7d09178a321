"""Archives: the folder of a workload as one file, the same for the same content, and how it is unpacked.

A plain tar of plain files: sorted, without times, owners or links. What is unpacked comes from elsewhere, so nothing of
it is believed before it was looked at.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from evaluators.bundle.names import why_not_a_name
from evaluators.cache import file_hashes
from evaluators.errors import IntegrityError, UsageError
from evaluators.frozen import digest

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE_FILE = ".paretuneignore"
IGNORED = (
    ".*", "__pycache__/", "*.pyc", "node_modules/", "venv/", "*.egg-info/", "mlruns/", "mlartifacts/",
)  # fmt: skip
"""What is never packed, in the patterns of a ``.gitignore``: hidden files and folders, caches, environments."""

MOST_BYTES, MOST_FILES = 512 * 2**20, 10_000
_BLOCK = tarfile.BLOCKSIZE


def packed_files(folder: Path) -> list[str]:
    """Return the relative paths of what goes into the archive of a folder, sorted.

    Everything in it but what ``IGNORED`` and the folder's ``.paretuneignore`` name; links are left out.

    Raises:
        UsageError: there is too much, or a file has a name that is not the same everywhere.
    """
    found, total = [], 0
    for path in _walk(folder, _ignores(folder)):
        found.append(path.relative_to(folder).as_posix())
        total += path.stat().st_size
        if len(found) > MOST_FILES or total > MOST_BYTES:
            raise UsageError(
                f"the folder {folder} holds more than {MOST_FILES} files or {MOST_BYTES // 2**20} MiB, too much to be "
                f"uploaded: name what is not needed in {folder / IGNORE_FILE}, or use --workload-from path"
            )
    if (why := why_not_a_name(found)) is not None:
        raise UsageError(f"folder {folder} cannot be uploaded: it holds {why}; rename it, or name it in {IGNORE_FILE}")
    return sorted(found)


def pack(folder: Path, archive: Path) -> None:
    """Write the archive of a folder: the same bytes for the same files, on every machine.

    Raises:
        UsageError: see ``packed_files``.
    """
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in packed_files(folder):
            with (folder / name).open("rb") as file:
                member = tarfile.TarInfo(name)
                member.size, member.mode = os.fstat(file.fileno()).st_size, 0o444
                tar.addfile(member, file)


def unpack(archive: Path, into: Path) -> str:
    """Unpack an archive whose hash was checked into a new, read-only folder, which appears whole or not at all.

    The digest of its content, which is returned, is kept in ``digest_file(into)``.

    Raises:
        IntegrityError: it is no archive, or holds anything but plain files that stay within the folder.
    """
    into.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=into.parent))
    try:
        try:
            with tarfile.open(archive, "r:") as tar:
                members = _members(tar)
                for member in members:
                    _write(tar, member, temporary / member.name)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise IntegrityError(f"it is no archive that paretune made: {error}") from error
        for path in sorted(temporary.rglob("*"), reverse=True):
            path.chmod(0o555 if path.is_dir() else 0o444)
        digest_file(into).write_text(found := content_digest(temporary))
        temporary.rename(into)
        into.chmod(0o555)
        return found
    finally:
        remove(temporary)


def remove(folder: Path) -> None:
    """Remove an unpacked folder, read-only as it is."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def digest_file(folder: Path) -> Path:
    """Return the file beside an unpacked folder that says what was unpacked."""
    return folder.with_suffix(".digest")


def content_digest(folder: Path) -> str:
    """Return the hash of all files of a folder with their names.

    Raises:
        IntegrityError: it holds something that is no plain file.
    """
    return digest(file_hashes(folder, leave_out=""))


def _members(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return the members of an archive after looking at all of them."""
    members, total = [], 0
    while (member := tar.next()) is not None:
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise IntegrityError(f"it holds {member.name[:200]!r}, which is no plain file")
        members.append(member)
        total += member.size
        if len(members) > MOST_FILES or total > MOST_BYTES:
            raise IntegrityError(f"it holds more than {MOST_FILES} files or {MOST_BYTES} bytes")
    if (why := why_not_a_name([member.name for member in members])) is not None:
        raise IntegrityError(f"it holds {why}")
    return members


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member) or io.BytesIO()
    with path.open("xb") as file:
        shutil.copyfileobj(source, file)
        if file.tell() != member.size:
            raise IntegrityError(f"it ends within {member.name[:200]!r}")


def _walk(folder: Path, ignores: GitIgnoreSpec) -> Iterator[Path]:
    """Yield the plain files of a folder that are not ignored; ignored folders are not looked into."""
    for root, folders, files in os.walk(folder):
        here = Path(root)

        def kept(name: str, tail: str = "", here: Path = here) -> bool:
            path = here / name
            within = path.relative_to(folder).as_posix() + tail
            return not path.is_symlink() and not ignores.match_file(within)

        folders[:] = sorted(name for name in folders if kept(name, "/"))
        yield from (here / name for name in sorted(files) if kept(name) and (here / name).is_file())


def _ignores(folder: Path) -> GitIgnoreSpec:
    from pathspec import GitIgnoreSpec

    own = folder / IGNORE_FILE
    try:
        lines = own.read_text(encoding="utf-8").splitlines() if own.is_file() else []
        return GitIgnoreSpec.from_lines([*IGNORED, *lines])
    except (ValueError, OSError) as error:
        raise UsageError(f"{own} cannot be read: {error}") from error
