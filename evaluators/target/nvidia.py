"""NVIDIA GPUs, asked of the driver: through NVML where nvidia-ml-py is installed, else through ``nvidia-smi``."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys

from evaluators.errors import InfrastructureError
from evaluators.frozen import Frozen
from evaluators.target.values import Accelerator

FIELDS = ("index", "uuid", "name", "compute_cap", "memory.total", "driver_version")
"""What is asked of each GPU, in nvidia-smi's words (``nvidia-smi --help-query-gpu``)."""

_SECONDS = 20.0
_MIB = 2**20
# A program of its own: a driver that hangs in the kernel takes only this process with it.
_NVML = """
import json, pynvml as n
n.nvmlInit()
text = lambda value: value.decode() if isinstance(value, bytes) else value
found = []
for index in range(n.nvmlDeviceGetCount()):
    gpu = n.nvmlDeviceGetHandleByIndex(index)
    capability = ".".join(str(part) for part in n.nvmlDeviceGetCudaComputeCapability(gpu))
    found.append([str(index), text(n.nvmlDeviceGetUUID(gpu)), text(n.nvmlDeviceGetName(gpu)), capability,
                  n.nvmlDeviceGetMemoryInfo(gpu).total, text(n.nvmlSystemGetDriverVersion())])
print(json.dumps(found))
"""


class Gpu(Frozen):
    """One NVIDIA GPU: its index and id in the driver's count, and what it is."""

    index: int
    uuid: str
    accelerator: Accelerator

    @property
    def target(self) -> str:
        """The name of its target: ``cuda-sm90``."""
        return f"cuda-{self.accelerator.architecture}"


def read_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that this process may use; none where there is no driver.

    Raises:
        InfrastructureError: there is a driver and it does not answer as it should.
    """
    if importlib.util.find_spec("pynvml") is not None and os.path.exists("/proc/driver/nvidia/version"):
        found = parse_nvml(_ask([sys.executable, "-c", _NVML]))
    elif (program := shutil.which("nvidia-smi")) is not None:
        query = [program, f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
        found = parse_smi(_ask(query))
    else:
        return ()
    return visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_smi(text: str) -> tuple[Gpu, ...]:
    """Read what ``nvidia-smi --query-gpu=… --format=csv,noheader,nounits`` printed; it counts memory in MiB.

    Raises:
        InfrastructureError: it printed something else.
    """
    rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text)) if row]
    found = []
    for row in rows:
        if len(row) != len(FIELDS) or not row[0].isdigit() or not row[4].isdigit():
            raise InfrastructureError(f"nvidia-smi answered {', '.join(row)!r} instead of {', '.join(FIELDS)}")
        found.append(_gpu(row[0], row[1], row[2], row[3], int(row[4]) * _MIB, row[5]))
    return tuple(found)


def parse_nvml(text: str) -> tuple[Gpu, ...]:
    """Read what NVML told, as JSON: the fields of ``FIELDS`` for each GPU, memory in bytes.

    Raises:
        InfrastructureError: it is something else.
    """
    try:
        rows = json.loads(text)
        return tuple(_gpu(*row) for row in rows)
    except (ValueError, TypeError) as error:
        raise InfrastructureError(f"NVML answered {text.strip()[:200]!r}: {error}") from error


def features_of(capability: int) -> tuple[str, ...]:
    """Return what a GPU of this compute capability (``90``) multiplies in, and how it can be driven.

    Source: NVIDIA's CUDA C++ Programming Guide, "Compute Capabilities", and TensorRT's support matrix.
    """
    since = {"fp16": 70, "int8": 75, "bf16": 80, "tf32": 80, "sparse_2_4": 80, "fp8": 89}
    return (*(feature for feature, first in since.items() if capability >= first), "graphs")


def visible(gpus: tuple[Gpu, ...], setting: str | None) -> tuple[Gpu, ...]:
    """Return the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves, in its order; it names indices or beginnings of ids.

    As CUDA does, everything after the first name that is none is left out.
    """
    if setting is None:
        return gpus
    found: list[Gpu] = []
    for name in (part.strip() for part in setting.split(",")):
        mine = [gpu for gpu in gpus if (name.isdigit() and gpu.index == int(name)) or _begins(gpu.uuid, name)]
        if len(mine) != 1 or mine[0] in found:
            break
        found += mine
    return tuple(found)


def _begins(uuid: str, name: str) -> bool:
    return name.startswith("GPU-") and uuid.startswith(name)


def _gpu(index: str, uuid: str, name: str, capability: str, memory_bytes: int, driver: str) -> Gpu:
    major, dot, minor = capability.partition(".")
    if not dot or not major.isdigit() or not minor.isdigit():
        raise InfrastructureError(
            f"the NVIDIA driver {driver} gives {capability!r} as the compute capability of {name}; update the driver"
        )
    accelerator = Accelerator(
        name=name, architecture=f"sm{major}{minor}", memory_bytes=memory_bytes, driver=driver,
    )  # fmt: skip
    return Gpu(index=int(index), uuid=uuid, accelerator=accelerator)


def _ask(command: list[str]) -> str:
    what = "NVML" if command[0] == sys.executable else "nvidia-smi"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise InfrastructureError(f"{what} gave no answer within {_SECONDS:g} s: the NVIDIA driver hangs") from None
    except OSError as error:
        raise InfrastructureError(f"{what} cannot be run: {error}") from error
    if done.returncode:
        said = (done.stdout.strip() or done.stderr.strip() or "nothing").splitlines()
        # nvidia-smi says what is wrong first, a traceback last.
        raise InfrastructureError(f"{what} failed: {said[-1] if what == 'NVML' else said[0]}")
    return done.stdout
