"""What a bundle takes besides time, measured by a program that does nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from evaluators.bundle import write_manifest
from evaluators.candidate import Candidate
from evaluators.errors import InfrastructureError
from evaluators.footprint import measure_footprint
from evaluators.footprint.__main__ import batch_of
from evaluators.footprint.memory import peak_resident_bytes, resident_bytes, status_bytes
from evaluators.jobs import PrepareJob, ProfileJob
from evaluators.profile import WorkloadProfile
from evaluators.quantizers.torch_recipe import Recipe
from evaluators.run_job import run
from evaluators.space import usable_backends
from evaluators.stages.reference import example_file
from evaluators.stages.restore import layer_sizes, save_model
from evaluators.structure import Structure, TensorSpec
from evaluators.target import probe_target
from tests import tiny

USABLE = sorted(usable_backends(probe_target()))
TORCH_FREE = [name for name in ("onnxruntime", "openvino") if name in USABLE]
MIB = 2**20


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def profile(home: Path) -> WorkloadProfile:
    answer = run(ProfileJob(workload=f"{tiny.__file__}:workload", home=str(home)), lambda stage: None)
    assert answer.profile is not None
    return answer.profile


def _bundle(home: Path, profile: WorkloadProfile, backend: str, batch_size: int = 4) -> tuple[Path, Path]:
    candidate = Candidate(target=probe_target().name, backend=backend, batch_size=batch_size)
    answer = run(PrepareJob(candidate=candidate, profile=profile, home=str(home)), lambda stage: None)
    assert answer.prepared is not None, answer
    return Path(answer.prepared.bundle), example_file(home, profile.fingerprint)


def _eager_bundle(folder: Path, model: str) -> tuple[Path, Path]:
    """Make an eager bundle of a linear layer, of a workload whose ``build_model`` does ``model``."""
    code = folder / "workload.py"
    code.write_text(
        f"import os, time\nfrom evaluators import Workload\ndef build_model():\n    {model}\n"
        "workload = Workload(name='w', model=build_model, calibration=list, validation=list)\n"
    )
    bundle, example = folder / "bundle", folder / "example.npz"
    bundle.mkdir()
    layer = torch.nn.Linear(3, 1)
    save_model(layer, layer_sizes(layer), {}, folder)
    Recipe("fp32").write(folder, bundle)
    one = Structure(style="tensor", tensors=(TensorSpec(name="input", dtype="float32", shape=(None, 3)),))
    candidate = Candidate(target=probe_target().name, backend="eager")
    write_manifest(bundle, candidate=candidate, workload=f"{code}:workload", inputs=one, outputs=one, environment={},
                   target_fingerprint=probe_target().fingerprint)  # fmt: skip
    np.savez(example, input=np.zeros((1, 3), np.float32))
    return bundle, example


@pytest.mark.parametrize("backend", USABLE)
def test_every_backend_has_a_footprint(home: Path, profile: WorkloadProfile, backend: str) -> None:
    footprint = measure_footprint(*_bundle(home, profile, backend), timeout_s=120)
    assert 10 * MIB < footprint.baseline_bytes < footprint.loaded_bytes <= footprint.peak_memory_bytes
    assert (footprint.energy_j is None) == (footprint.no_energy is not None)


@pytest.mark.parametrize("backend", TORCH_FREE)
def test_a_bundle_is_run_without_torch_where_it_can_be(home: Path, profile: WorkloadProfile, backend: str) -> None:
    code = (
        "import sys; from pathlib import Path; from evaluators.footprint.__main__ import observe; "
        "observe(Path(sys.argv[1]), Path(sys.argv[2])); print(sorted({'torch', sys.argv[3]} & set(sys.modules)))"
    )
    bundle, example = _bundle(home, profile, backend)
    command = [sys.executable, "-c", code, str(bundle), str(example), backend]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert ended.stdout.strip() == str([backend])


@pytest.mark.skipif(sys.platform != "linux", reason="only there does a program inherit the peak of its parent")
def test_memory_of_the_process_that_asks_does_not_count(home: Path, profile: WorkloadProfile) -> None:
    bundle, example = _bundle(home, profile, TORCH_FREE[0])
    before = measure_footprint(bundle, example, timeout_s=60)
    ballast = np.ones(256 * MIB, np.uint8)
    after = measure_footprint(bundle, example, timeout_s=60)
    assert resident_bytes() > len(ballast)
    assert after.peak_memory_bytes == pytest.approx(before.peak_memory_bytes, abs=16 * MIB)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere resident and peak memory are counted by different means")
def test_memory_that_was_given_back_stays_in_the_peak() -> None:
    before = resident_bytes()
    ballast = np.ones(512 * MIB, np.uint8)
    size = len(ballast)
    del ballast
    assert peak_resident_bytes() > before + 0.9 * size
    assert resident_bytes() < before + 0.5 * size


def test_a_batch_is_made_of_rows_of_the_example(tmp_path: Path) -> None:
    rows = np.arange(12, dtype=np.int64).reshape(2, 3, 2)
    np.savez(tmp_path / "example.npz", ids=rows)
    grown = batch_of(tmp_path / "example.npz", 5)["ids"]
    assert grown.dtype == np.int64
    assert grown.tolist() == [*rows.tolist(), *rows.tolist(), rows[0].tolist()]
    assert batch_of(tmp_path / "example.npz", 1)["ids"].tolist() == rows[:1].tolist()


def test_a_program_that_hangs_is_killed_with_what_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    hang = f"import os, time\nos.system('sleep 300 & echo $! > {started}')\ntime.sleep(300)\n"
    (tmp_path / "sitecustomize.py").write_text(hang)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    bundle, example = _eager_bundle(tmp_path, "pass")
    with pytest.raises(InfrastructureError, match="took more than 5 s; it said: nothing"):
        measure_footprint(bundle, example, timeout_s=5)
    assert _ended(int(started.read_text()))


def _ended(pid: int) -> bool:
    """Wait until process ``pid`` is gone or waits to be collected."""
    try:
        process = psutil.Process(pid)
        psutil.wait_procs([process], timeout=10)
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_program_that_dies_tells_why(tmp_path: Path) -> None:
    bundle, example = _eager_bundle(tmp_path, "raise RuntimeError('no such luck')")
    with pytest.raises(InfrastructureError, match=r"ended with code 1 and no answer; it said: .*no such luck"):
        measure_footprint(bundle, example, timeout_s=60)


def test_what_the_users_code_prints_is_no_answer(tmp_path: Path) -> None:
    model = "print('{}', flush=True); os.system('echo {}'); import torch; return torch.nn.Linear(3, 1)"
    bundle, example = _eager_bundle(tmp_path, model)
    assert measure_footprint(bundle, example, timeout_s=60).peak_memory_bytes > 10 * MIB


def test_a_field_of_a_status_file_is_read_in_bytes(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmHWM:\t   10904 kB\nVmRSS:\t     512 kB\nThreads:\t1\n")
    assert status_bytes(status, "VmHWM") == 10904 * 1024
    assert status_bytes(status, "VmRSS") == resident_bytes(status) == 512 * 1024
    assert status_bytes(status, "VmPeak") is None
    assert status_bytes(tmp_path / "missing", "VmHWM") is None
    with pytest.raises(ValueError, match=r"Threads in .* is '1', not a number of kB"):
        status_bytes(status, "Threads")


def test_without_a_status_file_the_system_is_asked(tmp_path: Path) -> None:
    process = psutil.Process(os.getpid()).memory_info().rss
    assert resident_bytes(tmp_path / "missing") == pytest.approx(process, rel=0.2)
    assert peak_resident_bytes(tmp_path / "missing") > 0.5 * process
