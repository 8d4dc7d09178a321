"""Store: folders and files that the homes of a fleet share, in a directory or an object store (fsspec).

Content lies under its own hash; a folder is a list of such hashes under its key, written when all of them are there. So
an upload that ends halfway leaves nothing that anybody would use, two uploads of one key do not disturb each other, and
what comes back is compared with its hash before it has its name.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from evaluators.bundle.manifest import plain_json
from evaluators.bundle.names import why_not_a_name
from evaluators.cache import file_hashes
from evaluators.errors import DamagedError, InfrastructureError, IntegrityError, ParetuneError, UsageError
from evaluators.frozen import canonical_json

MOST_LIST_BYTES = 4 * 2**20
_CHUNK_BYTES = 2**20
_FLAT = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "az"})
"""Kinds of stores without folders, where making one would make a bucket."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)?")


Check = Callable[[Path], None]
"""Looks into a folder, and raises IntegrityError where it is not what it should be."""


class StoreUnreachableError(InfrastructureError):
    """The shared store cannot be read or written at the moment."""


class Store:
    """A place that several homes read and write. Safe to share between threads.

    Args:
        url: a directory, or what fsspec understands: ``s3://bucket/folder``, ``memory://name``.

    Raises:
        UsageError: nothing installed can read such a URL.
    """

    def __init__(self, url: str) -> None:
        self.url = shown(url)
        self._files, self._root = _opened(url)
        kinds = (protocol,) if isinstance(protocol := self._files.protocol, str) else protocol
        self._local, self._flat = "file" in kinds, bool(_FLAT & set(kinds))

    def put_folder(self, kind: str, key: str, folder: Path) -> None:
        """Put the files of ``folder`` under a key; where something is there already, that stays.

        Raises:
            IntegrityError: the folder holds something that is no plain file.
            StoreUnreachableError: it could not be put.
        """
        if self.holds(kind, key):
            return
        listed = file_hashes(folder, leave_out="")
        for name, sha in listed.items():
            self._put(folder / name, self._content(sha))
        with tempfile.NamedTemporaryFile(prefix="paretune-") as file:
            file.write(canonical_json({"files": listed}).encode())
            file.flush()
            self._put(Path(file.name), self._list(kind, key), replace=True)

    def fetch_folder(self, kind: str, key: str, into: Path, check: Check = lambda folder: None) -> bool:
        """Fetch what is under a key into a new folder, which appears whole or not at all; False if there is nothing.

        Args:
            into: the folder; what is there already is replaced.
            check: looks into the fetched folder before it gets its name.

        Raises:
            DamagedError: what is there is not what was put there; it is taken out of the store.
            StoreUnreachableError: it could not be fetched.
        """
        listed = self._listed(kind, key)
        if listed is None:
            return False
        try:
            into.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".fetching-", dir=into.parent))
        except OSError as error:
            raise InfrastructureError(f"the folder {into.parent} cannot be written: {error}") from error
        try:
            self._fetch_all(listed, temporary)
            check(temporary)
            _take_place(temporary, into, listed)
        except IntegrityError as error:
            raise self._damaged(kind, key, error) from error
        except OSError as error:
            raise InfrastructureError(f"the folder {into} cannot be written: {error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return True

    def holds(self, kind: str, key: str) -> bool:
        """Whether something was put under a key, and all of it."""
        return self._size(self._list(kind, key)) is not None

    def put_file(self, file: Path) -> str:
        """Put a file under its SHA-256, and return that."""
        with file.open("rb") as opened:
            sha = hashlib.file_digest(opened, "sha256").hexdigest()
        self._put(file, self._content(sha))
        return sha

    def fetch_file(self, sha: str, into: Path) -> bool:
        """Fetch the file of this SHA-256 into a new file; False if there is none.

        Raises:
            DamagedError: it has another hash; it is taken out of the store.
        """
        if not _SHA256.fullmatch(sha) or self._size(self._content(sha)) is None:
            return False
        self._fetch(sha, into, into.name)
        return True

    def add_hint(self, topic: str, key: str) -> None:
        """Note that something under ``key`` may be of use to whoever is at ``topic``."""
        path = self._path("hints", f"{topic}/{key}")
        if self._size(path) is None:
            with tempfile.NamedTemporaryFile(prefix="paretune-") as nothing:
                self._put(Path(nothing.name), path)

    def hints(self, topic: str) -> tuple[str, ...]:
        """Return the keys that were noted at a topic."""
        with _reachable(self.url):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._path("hints", topic), detail=False)
            except FileNotFoundError:
                return ()
        return tuple(sorted(str(path).rpartition("/")[2] for path in found if not str(path).endswith("/")))

    def _listed(self, kind: str, key: str) -> dict[str, str] | None:
        """Return the files of a folder with their hashes, or None where there is none."""
        path = self._list(kind, key)
        with _reachable(self.url):
            try:
                with self._files.open(path, "rb") as file:
                    text = file.read(MOST_LIST_BYTES + 1)
            except FileNotFoundError:
                return None
        try:
            return _parsed(text)
        except IntegrityError as error:
            raise self._damaged(kind, key, error) from error

    def _fetch_all(self, listed: dict[str, str], folder: Path) -> None:
        """Fetch the files of a list; all of them are looked at, so that nothing damaged stays in the store."""
        damaged: DamagedError | None = None
        for name, sha in listed.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                self._fetch(sha, folder / name, name)
            except DamagedError as error:
                damaged = damaged or error
        if damaged is not None:
            raise damaged

    def _fetch(self, sha: str, into: Path, what: str) -> None:
        """Fetch content by its hash; a file that has another one is not kept, neither here nor there."""
        found = hashlib.sha256()
        with _reachable(self.url):
            try:
                with self._files.open(self._content(sha), "rb") as source, into.open("xb") as file:
                    while chunk := source.read(_CHUNK_BYTES):
                        found.update(chunk)
                        file.write(chunk)
                    file.flush()
                    os.fsync(file.fileno())
            except FileNotFoundError:
                raise DamagedError(f"{what} is missing from the store {self.url}") from None
        if found.hexdigest() != sha:
            into.unlink()
            self._drop(self._content(sha))
            raise DamagedError(f"{what} in the store {self.url} has the hash {found.hexdigest()[:16]}, not {sha[:16]}")

    def _put(self, source: Path, path: str, *, replace: bool = False) -> None:
        """Put a file where nobody sees it, then give it its name; content that is there in full is left alone."""
        with _reachable(self.url):
            if not replace and self._size(path) == source.stat().st_size:
                return
            if self._local:
                _write_beside(source, Path(path))
                return
            part = f"{self._root}/parts/{secrets.token_hex(16)}"
            for folder in () if self._flat else (part, path):
                self._files.makedirs(folder.rpartition("/")[0], exist_ok=True)
            self._files.put_file(str(source), part)
            self._files.mv(part, path)

    def _size(self, path: str) -> int | None:
        """Return the size of an object, or None where there is none."""
        with _reachable(self.url):
            self._files.invalidate_cache()
            try:
                return int(self._files.info(path)["size"])
            except FileNotFoundError:
                return None

    def _damaged(self, kind: str, key: str, error: IntegrityError) -> DamagedError:
        """Take the list of a folder out, and say why."""
        self._drop(self._list(kind, key))
        return DamagedError(f"{kind} {key} is damaged, and was taken out of the store: {error}")

    def _drop(self, path: str) -> None:
        """Take a damaged object out; where that is not allowed, it is found to be damaged again."""
        with suppress(Exception):
            self._files.rm_file(path)

    def _list(self, kind: str, key: str) -> str:
        return self._path(f"folders/{kind}", key) + ".json"

    def _content(self, sha: str) -> str:
        return f"{self._root}/files/{sha[:2]}/{sha}"

    def _path(self, folder: str, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise UsageError(f"{key!r} is no key of a shared store")
        return f"{self._root}/{folder}/{key}"


def shown(url: str | None) -> str:
    """Return a URL as it may be shown: without a password."""
    return re.sub(r"//[^/@]*@", "//***@", url or "")


def _parsed(text: bytes) -> dict[str, str]:
    content = plain_json(text, MOST_LIST_BYTES, "its list")
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise IntegrityError("its list names no files")
    if (why := why_not_a_name(list(files))) is not None:
        raise IntegrityError(f"its list names {why}")
    if bad := next((sha for sha in files.values() if not isinstance(sha, str) or not _SHA256.fullmatch(sha)), None):
        raise IntegrityError(f"its list gives {str(bad)[:80]!r} as a hash")
    return files


def _take_place(temporary: Path, into: Path, listed: dict[str, str]) -> None:
    """Give a fetched folder its name; another process may have been quicker, or something else may lie there."""
    with suppress(OSError):
        temporary.rename(into)
        return
    with suppress(OSError, IntegrityError):
        if file_hashes(into, leave_out="") == listed:
            return
    shutil.rmtree(into, ignore_errors=True)
    temporary.rename(into)


def _write_beside(source: Path, path: Path) -> None:
    """Copy a file to another place under a temporary name, and rename it once it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:32]}-{secrets.token_hex(8)}")
    try:
        with source.open("rb") as original, part.open("xb") as copy:
            shutil.copyfileobj(original, copy, _CHUNK_BYTES)
            copy.flush()
            os.fsync(copy.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _opened(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the folder in it."""
    import fsspec

    try:
        files, root = fsspec.url_to_fs(url if "://" in url else f"file://{Path(url).expanduser().resolve()}")
    except (ImportError, ValueError) as error:
        advice = "pip install 'paretune[s3]'" if url.startswith("s3") else "name a directory, or s3://bucket/folder"
        raise UsageError(f"store {shown(url)!r} cannot be used: {error}; {advice}") from error
    if not root.strip("/"):
        raise UsageError(f"store {shown(url)!r} names no folder; write s3://bucket/folder, or the path of a directory")
    return files, root.rstrip("/")


@contextmanager
def _reachable(url: str) -> Iterator[None]:
    """Say of whatever goes wrong in the block that the store cannot be reached; each kind has errors of its own."""
    try:
        yield
    except ParetuneError:
        raise
    except Exception as error:
        raise StoreUnreachableError(f"the store {url} cannot be used: {type(error).__name__}: {error}") from error
