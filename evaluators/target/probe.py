"""Which targets this machine offers, and which of them is meant where none is named."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from evaluators.errors import InfrastructureError, UsageError
from evaluators.frozen import Frozen
from evaluators.target import amd, apple, intel, nvidia
from evaluators.target.processor import read_processor
from evaluators.target.software import torch_devices
from evaluators.target.values import Accelerator, Target, device_of

_ABSENT = {
    "cuda": "no driver of NVIDIA's answers (nvidia-smi is not on PATH, or shows no GPU)",
    "rocm": "the kernel shows no GPU that ROCm can use (/sys/class/kfd)",
    "apple": "this is no Mac with a chip of Apple's",
}


class DefaultTarget(Frozen):
    """The target that is meant where none is named, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class _Found:
    """The accelerators of this machine: one target for each class, their devices, and what could not be asked."""

    targets: tuple[Target, ...]
    devices: dict[str, tuple[str, ...]]
    problems: tuple[str, ...]
    absent: dict[str, str]


def probe_target(name: str | None = None) -> Target:
    """Return this machine's target of that name; the default one where none is named.

    Raises:
        UsageError: this machine has no such target.
    """
    if name is None:
        name = default_target().name
    processor = probe_processor()
    if name == processor.name:
        return processor
    offered = probe_targets()
    for target in offered:
        if name == target.name:
            return target
    problems = "".join(f"; {problem}" for problem in probe_problems())
    raise UsageError(
        f"this machine has no target {name!r}; it has {', '.join(target.name for target in offered)}{problems}"
    )


def probe_targets() -> tuple[Target, ...]:
    """Return every target that this machine offers, its processor first."""
    return (probe_processor(), *_accelerators().targets)


@cache
def probe_processor() -> Target:
    """Read the processor as a target; costs milliseconds and starts no process on Linux."""
    return read_processor()


def probe_problems() -> tuple[str, ...]:
    """Say what could not be asked, such as a driver that gives no answer."""
    return _accelerators().problems


def probe_absent() -> dict[str, str]:
    """Say of each family of accelerators that this machine does not offer, why."""
    return dict(_accelerators().absent)


def devices_of(target: str) -> tuple[str, ...]:
    """Return the devices of this machine that are of a target: ``("cuda:0", "cuda:1")``; ``("cpu",)`` for processors.

    Those of Intel's are in OpenVINO's words: ``("GPU.0",)``.

    Raises:
        UsageError: no target has such a name.
    """
    if (device := device_of(target)) in ("cpu", "mps"):
        return (device,)
    return _accelerators().devices.get(target, ())


def default_target() -> DefaultTarget:
    """Return the target that is meant where none is named: an accelerator that torch here can use, or the processor."""
    return choose_default(probe_targets(), torch_devices())


def choose_default(offered: tuple[Target, ...], built_for: dict[str, str]) -> DefaultTarget:
    """Return the first accelerator of a family that torch was built for, else the processor, which comes first.

    ``built_for`` names families and what torch was built with, ``{"cuda": "12.6"}``.
    """
    processor, accelerators = offered[0], offered[1:]
    for target in accelerators:
        family = target.name.partition("-")[0]
        if family in built_for:
            what = target.accelerator.name if target.accelerator else target.name
            return DefaultTarget(name=target.name, why=f"torch here is built for {what} ({built_for[family]})")
    if accelerators:
        names = ", ".join(target.name for target in accelerators)
        return DefaultTarget(name=processor.name, why=f"torch here is not built for {names}")
    return DefaultTarget(name=processor.name, why="this machine shows no accelerator")


@cache
def _accelerators() -> _Found:
    """Ask for NVIDIA's, AMD's, Apple's and Intel's; GPUs of one class are one target with several devices."""
    processor, problems = probe_processor(), list[str]()
    try:
        gpus = nvidia.read_gpus()
    except InfrastructureError as error:
        gpus, problems = (), [*problems, str(error)]
    found = [(gpu.target, gpu.accelerator, f"cuda:{position}") for position, gpu in enumerate(gpus)]
    found += [(f"rocm-{gpu.architecture}", gpu, f"cuda:{i}") for i, gpu in enumerate(amd.read_gpus())]
    if (chip := apple.read_chip(processor.memory_bytes)) is not None:
        found.append((f"apple-{chip.architecture}", chip, "mps"))
    targets: dict[str, Target] = {}
    devices: dict[str, tuple[str, ...]] = {}
    for name, accelerator, device in found:
        known = targets.setdefault(name, target_of(name, accelerator, processor))
        if known.accelerator == accelerator:
            devices[name] = (*devices.get(name, ()), device)
        elif known.accelerator is not None:
            problems.append(f"{device}, {accelerator.name}, is left out: {name} is {known.accelerator.name} here")
    ours = intel.read_devices()
    for item in ours.devices:
        update = {"name": item.target, "features": item.features, "accelerator": item.accelerator}
        targets[item.target], devices[item.target] = processor.model_copy(update=update), (item.device,)
    absent = {family: why for family, why in _ABSENT.items() if not any(name.startswith(family) for name in targets)}
    return _Found(tuple(targets.values()), devices, (*problems, *ours.problems), absent | ours.absent)


def target_of(name: str, accelerator: Accelerator, processor: Target) -> Target:
    """Return the target of an accelerator in the machine of ``processor``; its features are its own."""
    family, architecture = name.partition("-")[0], accelerator.architecture
    if family == "cuda":
        features = nvidia.features_of(int(architecture.removeprefix("sm")))
    else:
        features = (amd if family == "rocm" else apple).features_of(architecture)
    return processor.model_copy(update={"name": name, "features": features, "accelerator": accelerator})
