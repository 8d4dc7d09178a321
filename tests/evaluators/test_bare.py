"""The archive for a machine with only torch and NumPy: what it holds, that it runs there, what it says elsewhere."""

from __future__ import annotations

import importlib.util
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from evaluators.outcome import Outcome
from evaluators.target import probe_processor
from tests.conftest import ROOT, TINY
from tests.interpreters import an_environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the archive is for POSIX systems")


@pytest.fixture(scope="module")
def make_bare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_bare", ROOT / "scripts" / "make_bare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def archive(make_bare: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = make_bare.build(tmp_path_factory.mktemp("dist"))
    return path


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python that has torch, NumPy and what torch itself requires."""
    return an_environment(tmp_path_factory.mktemp("bare"), "torch", "numpy")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def run(python: Path, archive: Path, cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"XDG_CACHE_HOME": str(cache), "PATH": os.environ["PATH"], "PARETUNE_MAX_FOREIGN_LOAD": "1000"}
    return subprocess.run([str(python), str(archive), *arguments], env=environment, cwd=archive.parent,
                          capture_output=True, text=True, timeout=240, check=False)  # fmt: skip


def test_the_archive_holds_the_evaluators_and_their_light_dependencies_alone(
    archive: Path, make_bare: ModuleType
) -> None:
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
    tops = {name.split("/")[1] for name in names if name.startswith("payload/")}

    assert {name for name in names if not name.startswith("payload/")} == {"__main__.py"}
    assert {"evaluators", "pydantic", "scipy", "psutil", "safetensors", "torch_pruning"} <= tops
    assert not tops & {"torch", "numpy", "search", "workers", "tests", "optuna", "mlflow", "sqlalchemy", "celery",
                       "onnx", "onnxruntime", "openvino", "coremltools", "executorch"}  # fmt: skip
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name or ".." in name]
    allowed = (*make_bare.REQUIRED, *make_bare.OPTIONAL, "paretune")
    described = {top.partition("-")[0].replace("_", "-").lower() for top in tops if top.endswith(".dist-info")}
    assert described <= set(allowed)


def test_every_module_that_evaluators_load_is_in_the_archive_or_comes_with_torch(
    archive: Path, bare: Path, cache: Path
) -> None:
    """The environment has nothing of ours; what is imported comes from the archive."""
    for name in ("pydantic", "scipy", "psutil", "safetensors", "torch_pruning", "optuna", "onnxruntime"):
        assert subprocess.run([str(bare), "-c", f"import {name}"], capture_output=True, check=False).returncode, name

    ended = run(bare, archive, cache, "targets")

    assert ended.returncode == 0, ended.stderr
    (first, *_) = json.loads(ended.stdout)["targets"]
    assert first["name"] == probe_processor().name
    assert first["backends"]["eager"] is None
    assert first["backends"]["onnxruntime"] == "onnxruntime is not installed: pip install 'paretune[onnxruntime]'"


def test_a_pruned_and_quantized_candidate_is_measured_there(
    archive: Path, bare: Path, cache: Path, tmp_path: Path
) -> None:
    candidate = tmp_path / "candidate.json"
    candidate.write_text(json.dumps({
        "target": probe_processor().name, "backend": "eager", "quantization": {"scheme": "dynamic_int8"},
        "pruning": {"structure": "channel", "amount": 0.5, "alignment": 8},
    }))  # fmt: skip

    ended = run(bare, archive, cache, "measure", TINY, str(candidate), "--home", str(tmp_path / "home"))

    assert ended.returncode == 0, (ended.stdout, ended.stderr)
    outcome = Outcome.model_validate_json(ended.stdout)
    assert outcome.kind == "measured"
    assert outcome.evidence.latency is not None and outcome.evidence.accuracy is not None
    assert outcome.evidence.peak_memory_bytes is not None, "a program of its own measures it"


def test_a_runtime_that_is_missing_is_said(archive: Path, bare: Path, cache: Path) -> None:
    candidate = json.dumps({"target": probe_processor().name, "backend": "onnxruntime"})

    ended = run(bare, archive, cache, "measure", TINY, candidate)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "error: backend onnxruntime cannot be used: onnxruntime is not installed: pip install 'paretune[onnxruntime]'\n"
    )


@pytest.mark.parametrize(
    ("has", "says"),
    [((), "error: NumPy is not installed for PYTHON: pip install numpy\n"),
     (("numpy",), "error: torch is not installed for PYTHON: pip install torch\n")],
)  # fmt: skip
def test_torch_or_numpy_that_is_missing_is_said(
    has: tuple[str, ...], says: str, archive: Path, cache: Path, tmp_path: Path
) -> None:
    python = an_environment(tmp_path / "environment", *has)

    ended = run(python, archive, cache, "measure", TINY)

    assert (ended.returncode != 0, ended.stdout) == (True, "")
    assert ended.stderr == says.replace("PYTHON", str(python))


@pytest.fixture
def small(make_bare: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Return an archive of one module in place of the evaluators, which tells where it lies."""
    module = b"import sys\nprint(__file__, *sys.argv[1:])\n"
    monkeypatch.setattr(make_bare, "contents", lambda: iter([("evaluators.py", module)]))
    yield make_bare.build(tmp_path / "first")


def test_equal_contents_give_an_equal_archive(small: Path, make_bare: ModuleType, tmp_path: Path) -> None:
    again = make_bare.build(tmp_path / "second")

    assert again.read_bytes() == small.read_bytes()
    assert again.name == small.name == f"paretune-evaluators-{make_bare.tag()}.pyz"


def test_it_unpacks_itself_once_to_a_folder_of_the_user_s_own(small: Path, tmp_path: Path) -> None:
    first = run(Path(sys.executable), small, tmp_path / "cache", "a", "b")
    folder, before = Path(first.stdout.split()[0]).parent, os.stat(first.stdout.split()[0]).st_mtime_ns
    second = run(Path(sys.executable), small, tmp_path / "cache")

    assert first.stdout.split()[1:] == ["a", "b"], first.stderr
    assert (folder.parent, stat.S_IMODE(folder.stat().st_mode)) == (tmp_path / "cache" / "paretune", 0o700)
    assert second.stdout.split() == first.stdout.split()[:1]
    assert os.stat(folder / "evaluators.py").st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "nothing half unpacked is left"


def test_a_folder_that_others_can_write_to_is_refused(small: Path, tmp_path: Path) -> None:
    folder = Path(run(Path(sys.executable), small, tmp_path / "cache").stdout.strip()).parent
    folder.chmod(0o770)

    ended = run(Path(sys.executable), small, tmp_path / "cache")

    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"error: {folder} belongs to another user or can be written by others" in ended.stderr


def test_another_python_is_told_what_the_archive_is_for(
    make_bare: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here = make_bare.tag()
    monkeypatch.setattr(make_bare, "contents", lambda: iter([]))
    monkeypatch.setattr(make_bare, "tag", lambda: "cp39-macosx_11_0_arm64")

    ended = run(Path(sys.executable), make_bare.build(tmp_path / "dist"), tmp_path / "cache", "targets")

    assert ended.returncode == 1
    assert ended.stderr == (
        f"error: this archive is for cp39-macosx_11_0_arm64, and this Python is {here}: build it there with make bare\n"
    )
    assert not (tmp_path / "cache").exists()
