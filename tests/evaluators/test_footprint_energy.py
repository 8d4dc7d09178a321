"""Energy counters: of processor packages from a tree like sysfs, of GPUs from a library like NVML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evaluators.footprint.energy import EnergyMeter, Package, packages
from evaluators.footprint.gpus import device_memory_bytes, gpus_of, with_energy

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


def _nvml(processes: dict[int, list[tuple[int, int | None]] | None], energy_mj: Sequence[int] = ()) -> Any:
    """Make a stand-in for NVML: for each GPU its processes as (id, bytes in use), None where it does not tell."""
    readings = iter(energy_mj)

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
