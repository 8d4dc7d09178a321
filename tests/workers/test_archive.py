"""Archives of workloads: the same for the same content, and harmless whoever made them."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from evaluators.errors import IntegrityError, UsageError
from workers import archive
from workers.archive import content_digest, digest_file, pack, packed_files, remove, unpack


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    for name in ("workload.py", "sibling.py", "package/__init__.py", "data/images.npz"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(name)
    return made


def add(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def packed(folder: Path) -> bytes:
    where = folder.parent / "packed.tar"
    pack(folder, where)
    return where.read_bytes()


def test_the_same_content_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    first = packed(folder)
    other = tmp_path / "elsewhere" / "copy"
    for name in reversed(packed_files(folder)):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes((folder / name).read_bytes())
        (other / name).chmod(0o700)
        os.utime(other / name, (1, 1))
    assert packed(other) == first
    (other / "sibling.py").write_text("changed")
    assert packed(other) != first


def test_code_and_data_go_in_and_what_is_not_of_the_workload_does_not(folder: Path) -> None:
    add(folder, ".git/config", ".env", ".paretune/ledger.db", "__pycache__/a.pyc", "package/__pycache__/b.pyc",
        "venv/bin/python", "node_modules/x.js", "mlruns/0/meta.yaml", "p.egg-info/PKG-INFO")  # fmt: skip
    (folder / "link.py").symlink_to("/etc/passwd")
    (folder / "linked").symlink_to("/etc")
    assert packed_files(folder) == ["data/images.npz", "package/__init__.py", "sibling.py", "workload.py"]


def test_a_paretuneignore_says_what_else_stays_out_and_what_goes_in(folder: Path) -> None:
    add(folder, "raw/huge.bin", "notes.txt", ".vocabulary")
    (folder / ".paretuneignore").write_text("raw/\n*.txt\n!.vocabulary\n")
    assert packed_files(folder) == [
        ".vocabulary",
        "data/images.npz",
        "package/__init__.py",
        "sibling.py",
        "workload.py",
    ]


def test_too_much_is_refused_with_advice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_BYTES", 10)
    with pytest.raises(UsageError, match=r"too much to be uploaded: name what is not needed in .*\.paretuneignore"):
        packed_files(folder)
    monkeypatch.undo()
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    with pytest.raises(UsageError, match="more than 3 files"):
        packed_files(folder)


def test_names_that_are_not_the_same_everywhere_are_refused(folder: Path) -> None:
    add(folder, "a.py", "A.py")
    with pytest.raises(UsageError, match="one file on some systems"):
        packed_files(folder)


def test_it_unpacks_to_the_same_files_read_only(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "a.tar")
    into = tmp_path / "home" / "hash"
    told = unpack(tmp_path / "a.tar", into)

    assert content_digest(into) == content_digest(folder) == told == digest_file(into).read_text()
    modes = {path.name: path.stat().st_mode & 0o222 for path in (into, *into.rglob("*"))}
    assert set(modes.values()) == {0}
    assert sorted(os.listdir(into.parent)) == ["hash", "hash.digest"]
    remove(into)
    assert not into.exists()


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"x", **more: object) -> Callable[..., None]:
    def add_to(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(content) if kind in (tarfile.REGTYPE, tarfile.AREGTYPE) else 0
        for field, value in more.items():
            setattr(info, field, value)
        tar.addfile(info, io.BytesIO(content) if info.size else None)

    return add_to


HOSTILE = {
    "absolute": [member("/tmp/paretune-escaped")],
    "up": [member("../escaped")],
    "up from within": [member("a/../../escaped")],
    "backslash": [member("..\\escaped")],
    "symlink": [member("link", tarfile.SYMTYPE, linkname="/etc")],
    "symlink, then through it": [member("out", tarfile.SYMTYPE, linkname=".."), member("out/escaped")],
    "hard link": [member("hard", tarfile.LNKTYPE, linkname="/etc/passwd")],
    "device": [member("null", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "pipe": [member("pipe", tarfile.FIFOTYPE)],
    "folder": [member("folder", tarfile.DIRTYPE)],
    "sparse": [member("sparse", tarfile.GNUTYPE_SPARSE)],
    "sparse in the headers": [member("s", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                                                       "GNU.sparse.name": "s", "GNU.sparse.realsize": "9"})],
    "twice": [member("a.py"), member("a.py", content=b"other")],
    "twice where case is ignored": [member("a.py"), member("A.py")],
    "file and folder": [member("a"), member("a/b")],
    "invisible": [member("a\u202e.py")],
    "another name in the headers": [member("a.py", pax_headers={"path": "../escaped"})],
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for each in (member("fine.py"), *HOSTILE[kind]):
            each(tar)
    home = tmp_path / "home"
    with pytest.raises(IntegrityError):
        unpack(tmp_path / "a.tar", home / "deep" / "hash")
    assert not [path for path in home.rglob("*") if path.is_file()]
    assert not list(tmp_path.rglob("escaped")) and not Path("/tmp/paretune-escaped").exists()


@pytest.mark.parametrize("text", [b"", b"no tar", b"\0" * 100, b"\x1f\x8b" + b"\0" * 600])
def test_what_is_no_archive_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(text)
    with pytest.raises(IntegrityError, match="no archive"):
        unpack(tmp_path / "a.tar", tmp_path / "home" / "hash")
    assert os.listdir(tmp_path / "home") == []


def test_an_archive_that_ends_within_a_file_is_refused(tmp_path: Path, folder: Path) -> None:
    (folder / "data" / "images.npz").write_bytes(b"i" * 5000)
    text = packed(folder)
    (tmp_path / "a.tar").write_bytes(text[:2000])
    with pytest.raises(IntegrityError):
        unpack(tmp_path / "a.tar", tmp_path / "home" / "hash")
    assert os.listdir(tmp_path / "home") == []


def test_more_than_anybody_uploads_is_refused(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(folder, tmp_path / "a.tar")
    monkeypatch.setattr(archive, "MOST_BYTES", 10)
    with pytest.raises(IntegrityError, match="more than"):
        unpack(tmp_path / "a.tar", tmp_path / "home" / "hash")
