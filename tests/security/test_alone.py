"""A bundle runs where only its own runtime is installed: no torch, no scipy, no optimizer, no tracker."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluators.bundle import open_bundle
from evaluators.registry import backend
from tests.conftest import ROOT
from tests.security import good

NEEDED = ("numpy", "numpy.libs", "pydantic", "pydantic_core", "annotated_types", "typing_extensions",
          "typing_inspection", "psutil")  # fmt: skip
RUNTIMES = {
    "onnxruntime": (good.onnx_bundle, ("onnxruntime", "flatbuffers", "packaging", "google")),
    "openvino": (good.openvino_bundle, ("openvino", "openvino.libs")),
}


def _link(name: str, place: Path) -> None:
    """Make one installed module, and what its distribution says of itself, importable from ``place``."""
    found = importlib.util.find_spec(name) if not name.endswith(".libs") else None
    folder = Path((found.submodule_search_locations or [""])[0]) if found and found.submodule_search_locations else None
    if folder is not None:
        (place / name).symlink_to(folder)
    elif found is not None and found.origin:
        (place / Path(found.origin).name).symlink_to(found.origin)
    elif (libraries := Path(np.__file__).parent.parent / name).is_dir():
        (place / name).symlink_to(libraries)


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    place = tmp_path / "site"
    place.mkdir()
    for name in NEEDED:
        _link(name, place)
    (place / "evaluators").symlink_to(ROOT / "evaluators")
    described = [found for entry in sys.path for found in Path(entry or ".").glob("paretune*-info")]
    (place / described[0].name).symlink_to(described[0].resolve())
    return place


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_bundle_runs_with_its_own_runtime_alone(name: str, alone: Path, tmp_path: Path) -> None:
    make, modules = RUNTIMES[name]
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    for module in modules:
        _link(module, alone)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    make(bundle)
    manifest = good.sealed(bundle, name)
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.savez(tmp_path / "inputs.npz", input=rows)

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(alone)}
        return subprocess.run([sys.executable, "-S", *arguments], env=environment, capture_output=True, text=True,
                              timeout=120, cwd=tmp_path)  # fmt: skip

    for absent in ("torch", "scipy", "optuna", "mlflow", "sqlalchemy"):
        assert "ModuleNotFoundError" in python("-c", f"import {absent}").stderr
    ended = python("-m", "evaluators.run_bundle", str(bundle), "--input", str(tmp_path / "inputs.npz"),
                   "--output", str(tmp_path / "outputs.npz"))  # fmt: skip

    assert ended.returncode == 0, ended.stderr
    runner = backend(name).load(bundle, open_bundle(bundle))
    here = [runner.outputs(runner.run(runner.prepare({"input": row[None]})))[0] for row in rows]
    with np.load(tmp_path / "outputs.npz") as stored:
        np.testing.assert_array_equal(stored["output"], np.concatenate(here))
    assert manifest.candidate.backend == name
