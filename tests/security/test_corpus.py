"""Bundles and models that mean ill are refused before a runtime sees them; nothing outside is read, no code runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evaluators.backends.base import Backend
from evaluators.bundle import MANIFEST, open_bundle, read_manifest
from evaluators.errors import IntegrityError, TargetMismatchError
from evaluators.registry import backends
from evaluators.target import probe_target
from tests.conftest import ROOT
from tests.security import good
from tests.security.corpus import CASES

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes are made as POSIX makes them")
SOUND = {"onnxruntime": good.onnx_bundle, "openvino": good.openvino_bundle}


def _loaded(folder: Path, answer: Path, names: list[str]) -> dict[str, Any]:
    folders = [str(folder / name) for name in names]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.security.loading", str(answer), *folders]
    subprocess.run(command, check=True, timeout=300, cwd=answer.parent, env=environment)
    return {Path(name).name: found for name, found in json.loads(answer.read_text()).items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("corpus")
    (place / "canary").mkdir()
    (place / "canary" / "secret").write_text("nobody may read this")
    return place


@pytest.fixture(scope="module")
def answers(place: Path) -> dict[str, Any]:
    """How one process, which loads as a deployment does, answered to every bundle of the corpus."""
    for name, (_, spoil) in CASES.items():
        (place / name).mkdir()
        spoil(place / name, place / "canary")
    return _loaded(place, place / "answer.json", list(CASES))


def test_the_corpus_is_large_enough() -> None:
    assert len(CASES) >= 30


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_and_nothing_outside_is_touched(name: str, answers: dict[str, Any], place: Path) -> None:
    reason, found = CASES[name][0], answers[name]

    assert found["refused"] is not None and reason in found["refused"], found
    assert found["kind"] in ("IntegrityError", "TargetMismatchError") and found["code"] == 5
    assert str(place / "canary" / "secret") not in found["opened"]
    assert not (place / "canary" / "marker").exists() and not (place / "marker").exists()


@pytest.mark.parametrize("backend", SOUND)
def test_a_sound_bundle_of_the_same_make_is_loaded(backend: str, tmp_path: Path) -> None:
    if backends()[backend].unusable(probe_target()) is not None:
        pytest.skip(f"{backend} cannot be used here")
    (tmp_path / "sound").mkdir()
    SOUND[backend](tmp_path / "sound")
    good.sealed(tmp_path / "sound", backend)

    found = _loaded(tmp_path, tmp_path / "answer.json", ["sound"])["sound"]
    assert found["refused"] is None
    assert any(path.startswith(str(tmp_path / "sound")) for path in found["opened"]), "the hook sees what is opened"


def test_code_of_a_bundle_runs_only_where_its_digest_is_vouched_for(tmp_path: Path) -> None:
    good.eager_bundle(tmp_path)
    digest = good.sealed(tmp_path, "eager").digest

    with pytest.raises(IntegrityError, match="runs code of its own"):
        open_bundle(tmp_path)
    with pytest.raises(IntegrityError, match="was expected"):
        open_bundle(tmp_path, trusted="0" * 64)
    assert open_bundle(tmp_path, trusted=digest).digest == digest


def test_only_portable_files_may_run_on_another_target(tmp_path: Path) -> None:
    def moved(folder: Path, backend: str, make: Callable[[Path], None]) -> Path:
        folder.mkdir()
        make(folder)
        good.sealed(folder, backend)
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**manifest, "target_fingerprint": "f" * 16}))
        return folder

    portable = moved(tmp_path / "a", "onnxruntime", good.onnx_bundle)
    library = {"data/aotinductor/model/m.so": b"x"}
    compiled = moved(tmp_path / "b", "inductor", lambda folder: good.archive(folder / "model.pt2", library))

    assert read_manifest(portable).target_fingerprint == "f" * 16
    assert open_bundle(portable, other_target=True).candidate.backend == "onnxruntime"
    with pytest.raises(TargetMismatchError, match="build it again here"):
        open_bundle(compiled, other_target=True, trusted=True)


def test_a_manifest_of_version_1_is_read_and_keeps_its_digest(tmp_path: Path) -> None:
    good.onnx_bundle(tmp_path)
    good.sealed(tmp_path, "onnxruntime")
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    old = {key: value for key, value in manifest.items() if key not in ("licences", "preprocessing")}
    (tmp_path / MANIFEST).write_text(json.dumps({**old, "schema_version": 1}))

    assert open_bundle(tmp_path).schema_version == 1
    from evaluators.frozen import digest

    assert read_manifest(tmp_path).digest == digest({**old, "schema_version": 1})


def test_a_further_format_is_its_backends_own_and_needs_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"x")
    good.sealed(tmp_path, "onnxruntime")
    with pytest.raises(IntegrityError, match="of a kind"):
        open_bundle(tmp_path, trusted=True)

    kind: type[Backend] = type(backends()["onnxruntime"])
    monkeypatch.setattr(kind, "formats", (".gguf",))
    assert open_bundle(tmp_path, trusted=True)
    with pytest.raises(IntegrityError, match="cannot look into"):
        open_bundle(tmp_path)
