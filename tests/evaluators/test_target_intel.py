"""Intel's GPUs and NPUs become targets as OpenVINO tells of them; what it does not see has a reason.

Architectures and names are those of public listings of such machines: none of them was at hand.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from evaluators import registry
from evaluators.bundle import opening
from evaluators.bundle.manifest import Manifest
from evaluators.candidate import Candidate
from evaluators.errors import InfrastructureError
from evaluators.structure import Structure, TensorSpec
from evaluators.target import intel, probe, probe_processor
from evaluators.testing.declaring import made_up
from tests.search.factories import a_profile

ARC = {"device": "GPU.0", "FULL_DEVICE_NAME": "Intel(R) Arc(TM) 140T GPU (16GB) (iGPU)",
       "DEVICE_ARCHITECTURE": "GPU: vendor=0x8086 arch=v12.74.4",
       "OPTIMIZATION_CAPABILITIES": ["FP32", "BIN", "FP16", "INT8", "GPU_HW_MATMUL", "EXPORT_IMPORT"],
       "GPU_DEVICE_TOTAL_MEM_SIZE": 17_000_000_000, "GPU_DRIVER_VERSION": "25.18.33578"}  # fmt: skip
NPU = {"device": "NPU", "FULL_DEVICE_NAME": "Intel(R) AI Boost", "DEVICE_ARCHITECTURE": "3720",
       "OPTIMIZATION_CAPABILITIES": ["FP16", "INT8", "EXPORT_IMPORT"], "NPU_DRIVER_VERSION": 1_688}  # fmt: skip
OTHER = {"device": "GPU.1", "FULL_DEVICE_NAME": "NVIDIA GeForce RTX 5090 (dGPU)",
         "DEVICE_ARCHITECTURE": "GPU: vendor=0x10de arch=v12.0.0"}  # fmt: skip
BOTH = {"xpu": True, "npu": True}


def told(*facts: dict[str, object]) -> tuple[intel.IntelDevice, ...]:
    return intel.parse_devices(json.dumps(facts))


def test_a_gpu_and_an_npu_are_named_by_their_architecture() -> None:
    gpu, npu = told(ARC, NPU)

    assert (gpu.target, gpu.device, gpu.features) == ("xpu-12_74_4", "GPU.0", ("fp16", "int8", "matrix_units"))
    assert (gpu.accelerator.memory_bytes, gpu.accelerator.driver) == (17_000_000_000, "25.18.33578")
    assert (npu.target, npu.device, npu.features) == ("npu-3720", "NPU", ("fp16", "int8"))
    assert npu.accelerator.driver == "1688"


def test_gpus_of_other_makers_are_no_target_of_openvinos() -> None:
    assert told(OTHER) == ()


@pytest.mark.parametrize("text", ["Segmentation fault", '[{"device": "GPU"}]',
                                  '[{"device": "GPU", "DEVICE_ARCHITECTURE": "unknown"}]'])  # fmt: skip
def test_an_answer_that_is_none_is_said(text: str) -> None:
    with pytest.raises(InfrastructureError, match="OpenVINO answered"):
        intel.parse_devices(text)


def test_of_two_devices_of_a_target_the_first_is_used_and_the_other_is_said() -> None:
    found = intel.judged(BOTH, True, told(ARC, ARC | {"device": "GPU.1"}, NPU))

    assert [device.device for device in found.devices] == ["GPU.0", "NPU"]
    assert found.problems == ("GPU.1 is left out: GPU.0 is the one used of xpu-12_74_4",)
    assert found.absent == {}


@pytest.mark.parametrize(
    ("shown", "installed", "why", "is_a_problem"),
    [
        (False, True, "shows no GPU of Intel's", False),
        (True, False, "pip install 'paretune\\[openvino\\]'", False),
        (True, True, "OpenVINO does not see it: install Intel's compute runtime", True),
    ],
)
def test_what_is_not_offered_has_a_reason(shown: bool, installed: bool, why: str, is_a_problem: bool) -> None:
    found = intel.judged({"xpu": shown, "npu": False}, installed, ())

    assert re.search(why, found.absent["xpu"])
    assert found.problems == ((found.absent["xpu"],) if is_a_problem else ())


def test_the_kernel_shows_what_is_intels(tmp_path: Path) -> None:
    for name, vendor in (("renderD128", "0x10de"), ("renderD129", "0x8086")):
        (tmp_path / "class/drm" / name / "device").mkdir(parents=True)
        (tmp_path / "class/drm" / name / "device/vendor").write_text(f"{vendor}\n")

    assert intel.in_kernel("xpu", tmp_path)
    assert not intel.in_kernel("npu", tmp_path)


@pytest.mark.parametrize("backend", sorted(registry.backends()))
@pytest.mark.parametrize("name", ["xpu-12_74_4", "npu-3720"])
def test_every_backend_answers_for_intels_devices_and_only_openvino_serves_them(backend: str, name: str) -> None:
    target = made_up(name).model_copy(update={"installed": {"openvino": "1", "onnx": "1", "onnxscript": "1"}})
    item = registry.backend(backend)

    assert (item.unusable(target) is None) == (backend == "openvino")
    item.options_for(a_profile(), target)  # is asked of every backend for every target of a machine


@pytest.fixture
def false_openvino(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for an ``openvino`` that comes before the real one, on a machine with both kinds of devices."""
    (tmp_path / "openvino").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(intel, "in_kernel", lambda family: True)
    monkeypatch.setattr(intel.sys, "platform", "linux")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "openvino" or find(name))
    return tmp_path / "openvino" / "__init__.py"


def test_openvino_is_asked_in_a_program_of_its_own_and_its_devices_are_targets(
    false_openvino: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {each["device"]: each for each in (ARC, NPU)}
    false_openvino.write_text(
        f"FACTS = {facts!r}\n"
        "class Core:\n"
        "    available_devices = ['CPU', *FACTS]\n"
        "    def get_property(self, device, name):\n"
        "        return FACTS[device][name]\n"
    )
    probe._accelerators.cache_clear()
    try:
        targets = {target.name: target for target in probe.probe_targets()}
        assert {"xpu-12_74_4", "npu-3720"} < set(targets)
        assert (targets["xpu-12_74_4"].device, targets["npu-3720"].device) == ("xpu", "npu")
        assert probe.devices_of("xpu-12_74_4") == ("GPU.0",)
        assert targets["npu-3720"].accelerator.name == "Intel(R) AI Boost"
        assert probe.default_target().name not in ("xpu-12_74_4", "npu-3720")
    finally:
        probe._accelerators.cache_clear()


@pytest.mark.parametrize(
    ("program", "seconds", "why"),
    [("raise OSError('libze_loader.so.1 is missing')", 30.0, "cannot be asked for its devices: OSError: libze_loader"),
     ("import time; time.sleep(30)", 0.5, "no answer within 0.5 s")],
)  # fmt: skip
def test_a_driver_that_fails_or_hangs_is_a_problem(
    false_openvino: Path, monkeypatch: pytest.MonkeyPatch, program: str, seconds: float, why: str
) -> None:
    false_openvino.write_text(program)
    monkeypatch.setattr(intel, "_SECONDS", seconds)

    found = intel.read_devices()

    assert found.devices == ()
    assert why in found.problems[0] and why in found.absent["xpu"]


def test_a_bundle_for_the_processor_is_opened_without_asking_for_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    processor = probe_processor()
    one = Structure(style="tensor", tensors=(TensorSpec(name="x", dtype="float32", shape=(None, 3)),))
    manifest = Manifest(
        candidate=Candidate(target=processor.name, backend="openvino"), workload="w", inputs=one, outputs=one,
        files={}, environment={}, target_fingerprint=processor.fingerprint,
    )  # fmt: skip
    monkeypatch.setattr(opening, "probe_targets", lambda: pytest.fail("accelerators were asked for"))

    assert opening._own_targets(manifest) == (processor,)
