"""Energy counters: of processor packages from a tree like sysfs, of GPUs from a library like NVML."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evaluators.footprint import __main__ as program
from evaluators.footprint.energy import EnergyMeter, Package, packages
from evaluators.footprint.gpus import bytes_in_use, device_memory_bytes, gpus_of, load_nvml, with_energy
from tests.security import good

RANGE_UJ = 262_143_328_850


def _domain(powercap: Path, folder: str, name: str, energy_uj: int, range_uj: int = RANGE_UJ) -> Path:
    path = powercap / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    (path / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return path


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, and beside them what must not be counted with them."""
    (tmp_path / "intel-rapl").mkdir()
    _domain(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    _domain(tmp_path, "intel-rapl:0:0", "core", 400_000)
    _domain(tmp_path, "intel-rapl:1", "package-1", RANGE_UJ - 500_000)
    _domain(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    _domain(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    return tmp_path


def test_all_packages_are_found_and_nothing_is_counted_twice(powercap: Path) -> None:
    found, missing = packages(powercap)
    assert [(package.name, package.path.name) for package in found] == [
        ("package-0", "intel-rapl:0"), ("package-1", "intel-rapl:1"),
    ]  # fmt: skip
    assert missing is None


def test_a_span_sums_the_packages_over_a_wrap_around(powercap: Path) -> None:
    with EnergyMeter(packages(powercap)[0]) as meter:
        (powercap / "intel-rapl:0" / "energy_uj").write_text("3500000\n")
        (powercap / "intel-rapl:1" / "energy_uj").write_text("250000\n")
        (powercap / "intel-rapl:2" / "energy_uj").write_text("99000000\n")
    assert meter.joules == pytest.approx(2.5 + 0.75)


@pytest.mark.parametrize(
    ("before", "after", "joules"),
    [(0, 0, 0.0), (5_000_000, 7_000_000, 2.0), (RANGE_UJ - 1_000_000, 1_000_000, 2.0), (RANGE_UJ, 0, 0.0)],
)
def test_a_counter_wraps_around_at_its_range(before: int, after: int, joules: float) -> None:
    assert Package("package-0", Path("nowhere"), RANGE_UJ).joules(before, after) == pytest.approx(joules)


def test_without_counters_there_are_no_joules(tmp_path: Path) -> None:
    found, missing = packages(tmp_path)
    assert found == ()
    assert missing is not None and "shows no RAPL counter" in missing
    with EnergyMeter(found) as meter:
        pass
    assert meter.joules is None


def test_one_unreadable_package_leaves_none(powercap: Path) -> None:
    (powercap / "intel-rapl:1" / "energy_uj").unlink()
    found, missing = packages(powercap)
    assert found == ()
    assert missing is not None and "intel-rapl:1/energy_uj" in missing


def test_a_refusal_says_what_to_do(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Package) -> int:
        raise PermissionError(13, "Permission denied", str(self.path / "energy_uj"))

    monkeypatch.setattr(Package, "read", refuse)
    found, missing = packages(powercap)
    assert found == ()
    assert missing is not None and missing.startswith(f"{powercap / 'intel-rapl:0' / 'energy_uj'} may be read by root")


class _NVMLError(Exception):
    """What NVML raises where a GPU does not support or permit a question."""


Processes = dict[int, list[tuple[int, int | None]] | None]
MIB = 2**20


def _nvml(processes: Processes, energy_mj: Sequence[int] = (), in_use: Sequence[int | None] = ()) -> Any:
    """Make a stand-in for NVML: for each GPU its processes as (id, bytes in use), None where it does not tell.

    ``in_use`` are the bytes in use on each GPU by whatever process.
    """
    readings = iter(energy_mj)

    def memory(handle: int) -> Any:
        if (used := in_use[handle] if handle < len(in_use) else None) is None:
            raise _NVMLError
        return SimpleNamespace(total=80 * 2**30, free=80 * 2**30 - used, used=used)

    def running(handle: int) -> list[Any]:
        if (found := processes[handle]) is None:
            raise _NVMLError
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in found]

    def energy(handle: int) -> int:
        if (found := next(readings, None)) is None:
            raise _NVMLError
        return found

    return SimpleNamespace(
        NVMLError=_NVMLError,
        nvmlDeviceGetCount=lambda: len(processes),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: "H200",
        nvmlDeviceGetComputeRunningProcesses=running,
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetTotalEnergyConsumption=energy,
    )


def test_only_the_gpus_of_this_process_count() -> None:
    nvml = _nvml({0: [(1, 500)], 1: [(1, 600), (7, 1000)], 2: [(7, 24)], 3: None})
    gpus = gpus_of(7, nvml)
    assert [gpu.name for gpu in gpus] == ["gpu-1 H200", "gpu-2 H200"]
    assert device_memory_bytes(gpus) == 1024
    assert gpus_of(8, nvml) == ()


def test_a_process_without_gpu_has_no_device_memory() -> None:
    assert device_memory_bytes(()) is None


def test_energy_of_gpus_and_packages_is_one_sum(powercap: Path) -> None:
    gpus = gpus_of(7, _nvml({0: [(7, None)]}, (9_000, 10_000, 14_500)))
    with EnergyMeter((*packages(powercap)[0], *with_energy(gpus))) as meter:
        (powercap / "intel-rapl:0" / "energy_uj").write_text("2000000\n")
    assert meter.joules == pytest.approx(1.0 + 4.5)


def test_a_gpu_that_counts_no_energy_is_left_out() -> None:
    assert with_energy(gpus_of(7, _nvml({0: [(7, 1)]}))) == ()


def test_memory_is_that_of_the_process_whatever_library_took_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime and TensorRT have allocators of their own; torch's is not even loaded."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    gpus = gpus_of(7, _nvml({0: [(7, 300 * MIB), (7, 20 * MIB), (9, 5)]}))

    assert device_memory_bytes(gpus) == 320 * MIB


@pytest.mark.parametrize(("reserved", "needs"), [(0, 300), (200, 300), (900, 900)])
def test_what_torch_once_took_and_gave_back_counts(reserved: int, needs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(
        is_initialized=lambda: True, device_count=lambda: 1, max_memory_reserved=lambda index: reserved * MIB
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))

    assert device_memory_bytes(gpus_of(7, _nvml({0: [(7, 300 * MIB)]}))) == needs * MIB


def test_where_processes_are_not_told_what_was_taken_since_is_this_one_s() -> None:
    """In a container with process ids of its own NVML lists nothing that this process could know itself by."""
    before = {0: 1000 * MIB, 1: 500 * MIB}
    gpus = gpus_of(7, _nvml({0: [], 1: [(40_123, 900 * MIB)]}, in_use=(1000 * MIB, 1400 * MIB)), before)

    assert [gpu.name for gpu in gpus] == ["gpu-1 H200"]
    assert device_memory_bytes(gpus) == 900 * MIB


def test_a_driver_that_lists_the_process_without_its_memory_is_asked_for_the_growth() -> None:
    nvml = _nvml({0: [(9, None)], 1: [(7, None)]}, in_use=(400 * MIB, 700 * MIB))

    (gpu,) = gpus_of(7, nvml, {0: 0, 1: 200 * MIB})

    assert (gpu.name, gpu.memory_bytes) == ("gpu-1 H200", 500 * MIB)


def test_where_the_process_is_told_the_growth_of_others_is_not_its_own() -> None:
    nvml = _nvml({0: [(7, 300 * MIB)], 1: [(9, 800 * MIB)]}, in_use=(400 * MIB, 800 * MIB))

    assert device_memory_bytes(gpus_of(7, nvml, {0: 0, 1: 0})) == 300 * MIB


@pytest.mark.parametrize("grown", [-50, 0, 8])
def test_less_than_a_context_is_no_process(grown: int) -> None:
    nvml = _nvml({0: []}, in_use=((100 + grown) * MIB,))

    assert gpus_of(7, nvml, {0: 100 * MIB}) == ()


def test_without_a_reading_from_before_nothing_is_guessed() -> None:
    """A bundle for the processor runs beside GPUs that others use."""
    assert gpus_of(7, _nvml({0: []}, in_use=(500 * MIB,))) == ()


@pytest.mark.parametrize(("target", "needs"), [("cuda-sm90", 600 * MIB), ("cpu-avx2", None)])
def test_a_bundle_of_any_runtime_has_its_device_memory(
    target: str, needs: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container: beside a bundle for the processor somebody else may take memory of the GPU."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    in_use = [100 * MIB]
    runner = SimpleNamespace(prepare=lambda batch: batch, run=lambda prepared: prepared, outputs=lambda raw: [])

    def load(bundle: Path, manifest: Any) -> Any:
        in_use[0] += 600 * MIB
        return runner

    good.onnx_bundle(tmp_path)
    manifest = good.sealed(tmp_path, "onnxruntime")
    candidate = manifest.candidate.model_copy(update={"target": target})
    monkeypatch.setattr(program, "open_bundle", lambda folder, trusted: manifest.model_copy(
        update={"candidate": candidate}))  # fmt: skip
    monkeypatch.setattr(program.registry, "backend", lambda name: SimpleNamespace(requires=("numpy",), load=load))
    monkeypatch.setattr(program, "load_nvml", lambda: _nvml({0: []}, in_use=in_use))
    np.savez(tmp_path / "example.npz", input=np.zeros((1, 4), np.float32))

    assert program.observe(tmp_path, tmp_path / "example.npz").device_memory_bytes == needs


def test_a_gpu_that_tells_no_memory_is_left_out() -> None:
    nvml = _nvml({0: [], 1: [], 2: []}, in_use=(600 * MIB, None, 700 * MIB))

    assert bytes_in_use(nvml) == {0: 600 * MIB, 2: 700 * MIB}
    assert [gpu.memory_bytes for gpu in gpus_of(7, nvml, {0: 0, 1: 0})] == [600 * MIB]


def test_the_real_library_has_what_it_is_asked_for() -> None:
    pynvml = pytest.importorskip("pynvml")

    assert all(callable(getattr(pynvml, name)) for name in vars(_nvml({})) if name != "NVMLError")
    assert issubclass(pynvml.NVMLError, Exception)
    assert {name for name, _ in pynvml.c_nvmlMemory_t._fields_} == {"total", "free", "used"}
    assert {"pid", "usedGpuMemory"} <= {name for name, _ in pynvml.c_nvmlProcessInfo_v3_t._fields_}


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="this machine has an NVIDIA driver")
def test_without_a_driver_there_is_no_library() -> None:
    assert load_nvml() is None


@pytest.mark.gpu
def test_a_gpu_in_use_is_found_with_its_memory() -> None:
    torch = pytest.importorskip("torch")
    if (nvml := load_nvml()) is None or not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU with nvidia-ml-py")
    before = bytes_in_use(nvml)
    held = torch.ones(256 * MIB, dtype=torch.uint8, device="cuda")

    needs = device_memory_bytes(gpus_of(os.getpid(), nvml, before))

    assert needs is not None and needs >= held.numel()
