"""What machines say of themselves becomes targets; the probes are texts as those machines print them.

They are written after the formats' documentation and public listings of such machines: none of them was recorded here.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from evaluators.errors import InfrastructureError, UsageError
from evaluators.target import (
    DEVICES,
    Accelerator,
    Target,
    amd,
    apple,
    device_of,
    devices_of,
    environment,
    environment_of,
    intel,
    nvidia,
    probe,
    probe_processor,
    probe_target,
)
from evaluators.target.processor import parse_cpuinfo, parse_sysctl, processor_name, usable_cores, usable_memory
from evaluators.target.software import parse_torch_build

PROBES = Path(__file__).parent / "probes"
PROCESSOR = Target(name="cpu-avx512_vnni", processor="Xeon", features=("avx512_vnni",), cores=8,
                   memory_bytes=64 * 10**9, system="Linux x86_64")  # fmt: skip


def said(name: str) -> str:
    return (PROBES / name).read_text()


@pytest.mark.parametrize(
    ("file", "name", "model", "has", "lacks"),
    [
        ("cpuinfo-graviton3.txt", "cpu-arm64", "Neoverse-V1", {"neon", "dotprod", "i8mm", "bf16", "sve"}, {"avx2"}),
        ("cpuinfo-haswell.txt", "cpu-avx2", "Intel(R) Xeon(R) CPU E5-2676 v3 @ 2.40GHz", {"avx2", "fma"}, {"avx512f"}),
        ("cpuinfo-sapphire-rapids.txt", "cpu-amx_int8", "Intel(R) Xeon(R) Platinum 8488C",
         {"amx_int8", "amx_bf16", "avx512_vnni", "avx512_fp16", "avx_vnni"}, {"neon"}),
    ],
)  # fmt: skip
def test_a_processor_is_named_by_what_linux_says(
    file: str, name: str, model: str, has: set[str], lacks: set[str]
) -> None:
    found = parse_cpuinfo(said(file))
    assert (processor_name(found, "x86_64"), found.model) == (name, model)
    assert has <= set(found.features)
    assert not lacks & set(found.features)


@pytest.mark.parametrize(
    ("file", "name", "has", "lacks"),
    [
        ("sysctl-m2.txt", "cpu-arm64", {"neon", "dotprod", "i8mm", "bf16"}, set()),
        ("sysctl-m1-pro.txt", "cpu-arm64", {"neon", "dotprod"}, {"i8mm", "bf16"}),
        ("sysctl-intel-mac.txt", "cpu-avx2", {"avx2", "fma"}, {"neon"}),
    ],
)
def test_a_processor_is_named_by_what_macos_says(file: str, name: str, has: set[str], lacks: set[str]) -> None:
    found = parse_sysctl(said(file))
    assert processor_name(found, "") == name
    assert has <= set(found.features) and not lacks & set(found.features)


def test_an_arm_core_that_nobody_knows_keeps_its_numbers() -> None:
    unknown = said("cpuinfo-graviton3.txt").replace("0xd40", "0xfff")
    assert parse_cpuinfo(unknown).model == "Arm 0x41 0xfff"


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"),
    [(64, "200000 100000", 2), (64, "150000 100000", 2), (4, "max 100000", 4), (2, "800000 100000", 2), (8, "", 8)],
)
def test_a_container_may_use_fewer_cores_than_the_machine_has(affinity: int, quota: str, cores: int) -> None:
    assert usable_cores(affinity, quota) == cores


def test_a_container_may_use_less_memory_than_the_machine_has() -> None:
    assert [usable_memory(8, limit) for limit in ("4\n", "max\n", "", "16")] == [4, 8, 8, 8]


@pytest.mark.parametrize(
    ("file", "target", "name", "memory_gb", "has", "lacks"),
    [
        ("nvidia-smi-h100.csv", "cuda-sm90", "NVIDIA H100 80GB HBM3", 85.5, {"fp8", "bf16", "sparse_2_4"}, set()),
        ("nvidia-smi-l4.csv", "cuda-sm89", "NVIDIA L4", 24.2, {"fp8", "tf32"}, set()),
        ("nvidia-smi-t4.csv", "cuda-sm75", "Tesla T4", 16.1, {"fp16", "int8", "graphs"}, {"bf16", "tf32", "fp8"}),
    ],
)
def test_a_gpu_is_named_by_what_nvidia_smi_says(
    file: str, target: str, name: str, memory_gb: float, has: set[str], lacks: set[str]
) -> None:
    gpu = nvidia.parse_smi(said(file))[0]
    found = probe.target_of(gpu.target, gpu.accelerator, PROCESSOR)
    assert (found.name, found.device, gpu.accelerator.name) == (target, "cuda", name)
    assert gpu.accelerator.memory_bytes / 1e9 == pytest.approx(memory_gb, abs=0.1)
    assert has <= set(found.features) and not lacks & set(found.features)
    assert (found.processor, found.cores) == ("Xeon", 8)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            said("nvidia-smi-old-driver.csv"),
            r"418\.226\.00 gives '\[N/A\]' as the compute capability.*update the driver",
        ),
        ("No devices were found\n", "nvidia-smi answered 'No devices were found' instead of index, uuid"),
    ],
)
def test_what_nvidia_smi_cannot_tell_is_said(text: str, words: str) -> None:
    with pytest.raises(InfrastructureError, match=words):
        nvidia.parse_smi(text)


def test_nvml_and_nvidia_smi_tell_the_same() -> None:
    (gpu,) = nvidia.parse_smi(said("nvidia-smi-l4.csv"))
    told = f'[["0", "{gpu.uuid}", "NVIDIA L4", "8.9", {23034 * 2**20}, "550.90.07"]]'
    assert nvidia.parse_nvml(told) == (gpu,)
    with pytest.raises(InfrastructureError, match="NVML answered"):
        nvidia.parse_nvml("Segmentation fault")


@pytest.mark.parametrize(
    ("setting", "indices"),
    [(None, [0, 1]), ("1", [1]), ("1,0", [1, 0]), ("", []), ("-1", []), ("GPU-91c7be02", [1]), ("0,7,1", [0]),
     ("0,0", [0])],
)  # fmt: skip
def test_gpus_are_those_that_cuda_may_see(setting: str | None, indices: list[int]) -> None:
    gpus = nvidia.parse_smi(said("nvidia-smi-h100.csv"))
    assert [gpu.index for gpu in nvidia.visible(gpus, setting)] == indices


def test_an_amd_gpu_is_read_from_the_kernel(tmp_path: Path) -> None:
    board = tmp_path / "0000:0d:00.0"
    board.mkdir()
    (board / "product_name").write_text("AMD Instinct MI300X OAM\n")
    found = amd.read_gpus(PROBES / "mi300" / "nodes", PROBES / "mi300" / "version", tmp_path)
    assert [gpu.name for gpu in found] == ["AMD Instinct MI300X OAM", "AMD Instinct MI300"]
    assert {(gpu.architecture, gpu.memory_bytes, gpu.driver) for gpu in found} == {("gfx942", 206141652992, "6.12.12")}
    target = probe.target_of("rocm-gfx942", found[0], PROCESSOR)
    assert target.device == "cuda" and target.has("fp8") and target.has("bf16")
    assert amd.read_gpus(tmp_path / "none", tmp_path / "none", tmp_path) == ()


@pytest.mark.parametrize(("version", "name"), [(90402, "gfx942"), (90010, "gfx90a"), (110000, "gfx1100"), (0, None)])
def test_the_kernels_numbers_are_llvms_names(version: int, name: str | None) -> None:
    assert amd.architecture_of(version) == name


@pytest.mark.parametrize(
    ("brand", "architecture", "has_bf16"), [("Apple M2", "m2", True), ("Apple M1 Pro", "m1", False)]
)
def test_an_apple_chip_is_named_by_its_generation(brand: str, architecture: str, has_bf16: bool) -> None:
    chip = apple.parse_chip(f"machdep.cpu.brand_string: {brand}\n", 16 * 2**30, "15.5")
    assert chip == Accelerator(name=brand, architecture=architecture, memory_bytes=16 * 2**30, driver="macOS 15.5")
    target = probe.target_of(f"apple-{architecture}", chip, PROCESSOR)
    assert target.device == "mps" and target.has("neural_engine") and target.has("bf16") is has_bf16
    assert apple.parse_chip("machdep.cpu.brand_string: Intel(R) Core(TM) i7-9750H\n", 1, "15.5") is None


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for a false ``nvidia-smi``, which comes first on the path; nothing is remembered of this machine."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nvidia, "_SECONDS", 1.0)
    monkeypatch.setattr(amd, "KFD", tmp_path / "none")
    monkeypatch.setattr(intel, "read_devices", intel.IntelDevices)
    probe._accelerators.cache_clear()
    yield tmp_path
    probe._accelerators.cache_clear()


def answer(machine: Path, script: str) -> None:
    program = machine / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="a Mac has an accelerator of its own")


@needs_linux
def test_two_gpus_of_a_kind_are_one_target_with_two_devices(machine: Path) -> None:
    answer(machine, f"cat {PROBES / 'nvidia-smi-h100.csv'}")
    processor, gpu = probe.probe_targets()
    assert (processor, gpu.name) == (probe_processor(), "cuda-sm90")
    assert devices_of("cuda-sm90") == ("cuda:0", "cuda:1")
    assert probe_target("cuda-sm90") == gpu
    assert probe_target(processor.name) == processor
    with pytest.raises(UsageError, match=f"no target 'cuda-sm80'; it has {processor.name}, cuda-sm90$"):
        probe_target("cuda-sm80")


@needs_linux
def test_another_gpu_of_the_same_name_is_left_out_and_said(machine: Path) -> None:
    smaller = said("nvidia-smi-h100.csv").replace(
        "1, GPU-91c7be02-5f4a-e3b8-0c6d-7e15fa8d2b49, NVIDIA H100 80GB HBM3",
        "1, GPU-91c7be02-5f4a-e3b8-0c6d-7e15fa8d2b49, NVIDIA H100 PCIe",
    )
    (machine / "gpus.csv").write_text(smaller)
    answer(machine, f"cat {machine / 'gpus.csv'}")
    assert devices_of("cuda-sm90") == ("cuda:0",)
    assert probe.probe_problems() == ("cuda:1, NVIDIA H100 PCIe, is left out: cuda-sm90 is NVIDIA H100 80GB HBM3 here",)


@needs_linux
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.'; exit 9",
         "nvidia-smi failed: NVIDIA-SMI has failed because it could not communicate"),
        ("sleep 30", "nvidia-smi gave no answer within 1 s: the NVIDIA driver hangs"),
        ("echo nonsense", "nvidia-smi answered 'nonsense'"),
    ],
)  # fmt: skip
def test_a_broken_driver_is_a_reason_and_the_processor_is_still_a_target(
    machine: Path, script: str, reason: str
) -> None:
    answer(machine, f"exec {script}" if script.startswith("sleep") else script)
    assert probe.probe_targets() == (probe_processor(),)
    (problem,) = probe.probe_problems()
    assert problem.startswith(reason)
    assert probe.default_target().name == probe_processor().name


H100 = probe.target_of("cuda-sm90", nvidia.parse_smi(said("nvidia-smi-h100.csv"))[0].accelerator, PROCESSOR)


@pytest.mark.parametrize(
    ("offered", "built", "name", "why"),
    [
        ((PROCESSOR,), {}, "cpu-avx512_vnni", "no accelerator"),
        ((PROCESSOR, H100), {}, "cpu-avx512_vnni", "not built for cuda-sm90"),
        ((PROCESSOR, H100), {"cuda": "12.6"}, "cuda-sm90", r"built for NVIDIA H100 80GB HBM3 \(12\.6\)"),
        ((PROCESSOR, H100), {"rocm": "6.3"}, "cpu-avx512_vnni", "not built for cuda-sm90"),
    ],
)
def test_the_default_is_the_accelerator_that_torch_can_use(
    offered: tuple[Target, ...], built: dict[str, str], name: str, why: str
) -> None:
    chosen = probe.choose_default(offered, built)
    assert chosen.name == name
    assert re.search(why, chosen.why)


@pytest.mark.parametrize(
    ("cuda", "hip", "built"),
    [("None", "None", {}), ("'12.6'", "None", {"cuda": "12.6"}), ("None", "'6.3.42131'", {"rocm": "6.3.42131"})],
)
def test_torch_tells_what_it_was_built_for(cuda: str, hip: str, built: dict[str, str]) -> None:
    text = f"__version__ = '2.13.0'\ndebug = False\ncuda: Optional[str] = {cuda}\nhip: Optional[str] = {hip}\n"
    assert parse_torch_build(text) == built


def test_the_fingerprint_changes_with_what_a_latency_depends_on_and_nothing_else() -> None:
    driver = H100.accelerator.model_copy(update={"driver": "580.65.06"})
    changed = [PROCESSOR.model_copy(update=change) for change in (
        {"processor": "EPYC"}, {"features": ()}, {"cores": 4}, {"system": "Linux aarch64"}, {"name": "cpu-avx2"},
    )]  # fmt: skip
    others = {each.fingerprint for each in (*changed, H100, H100.model_copy(update={"accelerator": driver}))}
    assert len(others) == 7 and PROCESSOR.fingerprint not in others
    same = PROCESSOR.model_copy(update={"memory_bytes": 1, "installed": {"torch": "2.13.0"}})
    assert same.fingerprint == PROCESSOR.fingerprint
    assert Target.model_validate_json(H100.model_dump_json()).fingerprint == H100.fingerprint


def test_versions_are_those_of_the_machine_that_was_probed() -> None:
    elsewhere = PROCESSOR.model_copy(update={"installed": {"python": "3.11.9", "torch": "2.13.0", "onnxruntime": "9"}})
    assert environment_of(elsewhere, "onnxruntime", "openvino") == {
        "python": "3.11.9", "torch": "2.13.0", "onnxruntime": "9",
    }  # fmt: skip
    assert elsewhere.version_of("openvino") is None
    assert environment_of(PROCESSOR, "optuna") == environment("optuna")


@pytest.mark.parametrize("family", sorted(DEVICES))
def test_every_family_of_targets_has_a_device(family: str) -> None:
    assert device_of(f"{family}-x") == DEVICES[family]


def test_a_name_of_no_family_is_refused() -> None:
    with pytest.raises(UsageError, match="'tpu-v5' is no target; names begin with cpu-, cuda-, rocm-, apple-"):
        device_of("tpu-v5")
