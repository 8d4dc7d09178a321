"""A bundle runs where only its own runtime is installed: no torch, no scipy, no optimizer, no tracker."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evaluators.batching import run_in_batches
from evaluators.bundle import Manifest, open_bundle
from evaluators.candidate import Candidate, Quantization
from evaluators.jobs import PrepareJob, ProfileJob
from evaluators.parameters import defaults
from evaluators.profile import WorkloadProfile
from evaluators.registry import backend, quantizers
from evaluators.run_job import run
from evaluators.target import probe_target
from tests.conftest import ROOT, TINY
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


ABSENT = ("torch", "scipy", "optuna", "mlflow", "sqlalchemy", "onnxscript")


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


def _python(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where only what lies in ``place`` can be imported."""
    environment = {**os.environ, "PYTHONPATH": str(place)}
    return subprocess.run([sys.executable, "-S", *arguments], env=environment, capture_output=True, text=True,
                          timeout=120, cwd=place.parent)  # fmt: skip


def _run_alone(name: str, bundle: Path, rows: dict[str, np.ndarray], place: Path) -> dict[str, np.ndarray]:
    """Run a bundle on rows where only its runtime can be imported, and return its outputs by name."""
    for module in RUNTIMES[name][1]:
        _link(module, place)
    inputs, outputs = place.parent / "inputs.npz", place.parent / "outputs.npz"
    np.savez(inputs, **rows)  # type: ignore[arg-type]
    for absent in ABSENT:
        assert "ModuleNotFoundError" in _python(place, "-c", f"import {absent}").stderr
    ended = _python(place, "-m", "evaluators.run_bundle", str(bundle), "--input", str(inputs), "--output", str(outputs))
    assert ended.returncode == 0, ended.stderr
    with np.load(outputs) as stored:
        return dict(stored)


def _run_here(bundle: Path, manifest: Manifest, rows: dict[str, np.ndarray]) -> list[np.ndarray]:
    runner = backend(manifest.candidate.backend).load(bundle, manifest)
    return run_in_batches(runner, rows, manifest.candidate.batch_size)


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_bundle_runs_with_its_own_runtime_alone(name: str, alone: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    RUNTIMES[name][0](bundle)
    good.sealed(bundle, name)
    rows = {"input": np.arange(20, dtype=np.float32).reshape(5, 4)}

    there = _run_alone(name, bundle, rows, alone)

    (here,) = _run_here(bundle, open_bundle(bundle), rows)
    np.testing.assert_array_equal(there["output"], here)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def profile(home: Path) -> WorkloadProfile:
    answer = run(ProfileJob(workload=TINY, home=str(home)), lambda stage: None)
    assert answer.profile is not None, answer
    return answer.profile


@pytest.mark.parametrize("scheme", ["fp32", "static_int8"])
@pytest.mark.parametrize("name", RUNTIMES)
def test_what_a_trial_builds_with_torch_answers_the_same_without_it(
    name: str, scheme: str, home: Path, profile: WorkloadProfile, alone: Path
) -> None:
    if (why := backend(name).unusable(probe_target())) is not None:
        pytest.skip(why)
    candidate = Candidate(target=probe_target().name, backend=name, batch_size=4,
                          quantization=known_good(name, scheme, profile))  # fmt: skip
    answer = run(PrepareJob(candidate=candidate, profile=profile, home=str(home)), lambda stage: None)
    assert answer.prepared is not None, answer
    bundle = Path(answer.prepared.bundle)
    manifest = open_bundle(bundle)  # it needs nobody's word
    rows = {"input": np.random.default_rng(0).standard_normal((10, 1, 12, 12)).astype(np.float32)}

    there = _run_alone(name, bundle, rows, alone)

    (here,) = _run_here(bundle, manifest, rows)
    assert there["output"].shape == (10, 4)
    np.testing.assert_array_equal(there["output"], here)
    assert np.ptp(here, axis=0).min() > 0.1, "outputs follow the inputs"


def known_good(name: str, scheme: str, profile: WorkloadProfile) -> Quantization:
    """Return a scheme with the knobs that are tried first on this machine."""
    knobs = quantizers()[name, scheme].parameters_for(profile, probe_target())
    return Quantization(scheme=scheme, **defaults(knobs))
