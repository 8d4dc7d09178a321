"""Intel's GPUs and NPUs, asked of OpenVINO in a program of its own; the kernel tells first whether there are any."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from evaluators.errors import InfrastructureError
from evaluators.frozen import Frozen
from evaluators.target.values import Accelerator

FAMILIES = {"xpu": "GPU", "npu": "NPU"}
"""OpenVINO's word for the devices of a family of targets."""

_SYSFS = {"xpu": "class/drm/renderD*", "npu": "class/accel/accel*"}
_DRIVERS = {
    "xpu": "install Intel's compute runtime (intel-opencl-icd)",
    "npu": "install Intel's NPU driver (intel-driver-compiler-npu, intel-level-zero-npu)",
}
_VENDOR = "0x8086"
_SECONDS = 30.0
_ARCHITECTURE = re.compile(r"(?:GPU: vendor=(0x[0-9a-f]+) arch=v)?([0-9][0-9a-z.]*)$", re.IGNORECASE)
_FEATURES = {"FP16": "fp16", "BF16": "bf16", "INT8": "int8", "GPU_HW_MATMUL": "matrix_units"}
# A program of its own: importing OpenVINO and its drivers takes long, and a driver that hangs takes only this one.
_ASK = """
import json, openvino
core, found = openvino.Core(), []
for device in core.available_devices:
    if device.partition(".")[0] not in ("GPU", "NPU"):
        continue
    facts = {"device": device}
    for name in ("FULL_DEVICE_NAME", "DEVICE_ARCHITECTURE", "OPTIMIZATION_CAPABILITIES", "GPU_DEVICE_TOTAL_MEM_SIZE",
                 "NPU_DEVICE_TOTAL_MEM_SIZE", "GPU_DRIVER_VERSION", "NPU_DRIVER_VERSION"):
        try:
            facts[name] = core.get_property(device, name)
        except Exception:
            continue
    found.append(facts)
print(json.dumps(found, default=str))
"""


class IntelDevice(Frozen):
    """One device: OpenVINO's name for it, the name of its target, what it is, and what it multiplies in."""

    device: str
    target: str
    accelerator: Accelerator
    features: tuple[str, ...]


class IntelDevices(Frozen):
    """What a machine has: the devices, what is wrong with others, and why there are none of a family."""

    devices: tuple[IntelDevice, ...] = ()
    problems: tuple[str, ...] = ()
    absent: dict[str, str] = Field(default_factory=dict)


def read_devices() -> IntelDevices:
    """Return the GPUs and NPUs of Intel that OpenVINO can use here; starts no program where the kernel shows none."""
    if sys.platform == "linux":
        shown = {family: in_kernel(family) for family in FAMILIES}
    else:
        shown = dict.fromkeys(FAMILIES, sys.platform == "win32")
    installed = importlib.util.find_spec("openvino") is not None
    if not any(shown.values()) or not installed:
        return judged(shown, installed, ())
    try:
        return judged(shown, installed, parse_devices(_ask()))
    except InfrastructureError as error:
        return IntelDevices(problems=(str(error),), absent={family: str(error) for family in FAMILIES})


def in_kernel(family: str, root: Path = Path("/sys")) -> bool:
    """Whether Linux's kernel shows a device of Intel's of this family."""
    vendors = (node / "device" / "vendor" for node in sorted(root.glob(_SYSFS[family])))
    return any(file.is_file() and file.read_text().strip() == _VENDOR for file in vendors)


def judged(shown: dict[str, bool], installed: bool, found: Sequence[IntelDevice]) -> IntelDevices:
    """Return the devices, of each target the first one, and say what is missing and why.

    ``shown`` tells whether the system shows a device of a family, ``installed`` whether OpenVINO is there to use it.
    """
    devices: dict[str, IntelDevice] = {}
    problems, absent = list[str](), dict[str, str]()
    for device in found:
        first = devices.setdefault(device.target, device)
        if first is not device:
            problems.append(f"{device.device} is left out: {first.device} is the one used of {device.target}")
    for family, word in FAMILIES.items():
        if any(target.startswith(f"{family}-") for target in devices):
            continue
        if not shown[family]:
            absent[family] = f"this machine shows no {word} of Intel's"
        elif not installed:
            absent[family] = "openvino is not installed: pip install 'paretune[openvino]'"
        else:
            absent[family] = f"there is {word} hardware of Intel's, and OpenVINO does not see it: {_DRIVERS[family]}"
            problems.append(absent[family])
    return IntelDevices(devices=tuple(devices.values()), problems=tuple(problems), absent=absent)


def parse_devices(text: str) -> tuple[IntelDevice, ...]:
    """Read what the program told, as JSON; GPUs of other makers, which OpenVINO also lists, are left out.

    Raises:
        InfrastructureError: it is something else, or a device does not tell its architecture.
    """
    try:
        rows = [_device(facts) for facts in json.loads(text)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InfrastructureError(f"OpenVINO answered {text.strip()[:200]!r}: {error!r}") from error
    return tuple(row for row in rows if row is not None)


def _device(facts: dict[str, object]) -> IntelDevice | None:
    device, architecture = str(facts["device"]), str(facts["DEVICE_ARCHITECTURE"])
    word = device.partition(".")[0]
    family = next(family for family, each in FAMILIES.items() if each == word)
    read = _ARCHITECTURE.match(architecture)
    if read is None:
        raise ValueError(f"{device} has the architecture {architecture!r}")
    if read[1] is not None and read[1].lower() != _VENDOR:
        return None
    capabilities = facts.get("OPTIMIZATION_CAPABILITIES", [])
    told = capabilities if isinstance(capabilities, list) else []
    return IntelDevice(
        device=device,
        target=f"{family}-{read[2].replace('.', '_')}",
        accelerator=Accelerator(
            name=str(facts.get("FULL_DEVICE_NAME", f"Intel {word}")),
            architecture=read[2],
            memory_bytes=int(str(facts.get(f"{word}_DEVICE_TOTAL_MEM_SIZE", 0))),
            driver=str(facts.get(f"{word}_DRIVER_VERSION", "")),
        ),
        features=tuple(feature for capability, feature in _FEATURES.items() if capability in told),
    )


def _ask() -> str:
    command = [sys.executable, "-c", _ASK]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise InfrastructureError(f"OpenVINO gave no answer within {_SECONDS:g} s: a driver of Intel's hangs") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()
        raise InfrastructureError(f"OpenVINO cannot be asked for its devices: {said[-1]}")
    return done.stdout
