"""The stage cache makes a thing once, notices damage, and never shows half of an entry."""

from pathlib import Path

import pytest

from evaluators.bundle import read_manifest, write_manifest
from evaluators.cache import StageCache
from evaluators.candidate import Candidate
from evaluators.errors import IntegrityError
from evaluators.structure import Structure, TensorSpec


def _make(text: str, calls: list[str]):  # type: ignore[no-untyped-def]
    def make(folder: Path) -> None:
        calls.append(text)
        (folder / "file").write_text(text)

    return make


def test_an_entry_is_made_once(tmp_path: Path) -> None:
    cache, calls = StageCache(tmp_path), []
    first = cache.get_or_make("ab12", _make("a", calls))
    second = cache.get_or_make("ab12", _make("b", calls))
    assert calls == ["a"]
    assert (first.hit, second.hit) == (False, True)
    assert first.digest == second.digest


@pytest.mark.parametrize("damage", ["altered", "missing", "foreign", "link", "unreadable list"])
def test_a_damaged_entry_is_made_again(tmp_path: Path, damage: str) -> None:
    cache, calls = StageCache(tmp_path), []
    entry = cache.get_or_make("ab12", _make("a", calls))
    file = entry.folder / "file"
    if damage == "altered":
        file.write_text("x")
    elif damage == "missing":
        file.unlink()
    elif damage == "unreadable list":
        (entry.folder / "entry.json").write_text('{"files": ')
    elif damage == "foreign":
        (entry.folder / "other").write_text("x")
    else:
        file.unlink()
        file.symlink_to("/etc/hostname")
    again = cache.get_or_make("ab12", _make("a", calls))
    assert calls == ["a", "a"]
    assert (again.folder / "file").read_text() == "a"
    assert [path.name for path in again.folder.iterdir() if path.name != "entry.json"] == ["file"]


def test_a_failed_making_leaves_nothing(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError):
        StageCache(tmp_path).get_or_make("ab12", make)
    assert not list((tmp_path / "ab").iterdir())


def test_a_tampered_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"model")
    one = Structure(style="tensor", tensors=(TensorSpec(name="x", dtype="float32", shape=(None, 3)),))
    written = write_manifest(tmp_path, candidate=Candidate(target="t", backend="b"), workload="w.py:w", inputs=one,
                             outputs=one, environment={}, target_fingerprint="f")  # fmt: skip
    assert read_manifest(tmp_path) == written
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(IntegrityError, match=r"model\.onnx"):
        read_manifest(tmp_path)
