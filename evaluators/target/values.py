"""What a target is: a name, and the facts that a latency on it depends on."""

from __future__ import annotations

from importlib import metadata

from evaluators.errors import UsageError
from evaluators.frozen import Frozen, digest

DEVICES = {"cpu": "cpu", "cuda": "cuda", "rocm": "cuda", "apple": "mps", "xpu": "xpu", "npu": "npu"}
"""What torch calls the device of a target, by the first word of the target's name; Intel's NPUs it does not know."""


def device_of(target: str) -> str:
    """Return torch's word for the device of a target: ``cpu``, ``cuda`` (of AMD's too), ``mps``, ``xpu``; or ``npu``.

    Raises:
        UsageError: no target has such a name.
    """
    family = target.partition("-")[0]
    if family not in DEVICES:
        raise UsageError(f"{target!r} is no target; names begin with {', '.join(f'{name}-' for name in DEVICES)}")
    return DEVICES[family]


class Accelerator(Frozen):
    """A device beside the processor: its name, architecture (``sm90``, ``gfx942``, ``m2``), memory and driver."""

    name: str
    architecture: str
    memory_bytes: int
    driver: str = ""


class Target(Frozen):
    """A class of hardware: its name is also the name of its queue.

    ``features`` are those of what computes: the processor's, or the accelerator's where there is one.
    ``fingerprint`` covers what a latency depends on: processor model, features, cores, system and accelerator.
    ``installed`` are the versions of what is installed on the machine that was probed, where that is another one.
    """

    name: str
    processor: str
    features: tuple[str, ...]
    cores: int
    memory_bytes: int
    system: str
    accelerator: Accelerator | None = None
    installed: dict[str, str] | None = None

    @property
    def device(self) -> str:
        """What torch calls the device: ``cpu``, ``cuda``, ``mps``, ``xpu``; or ``npu``."""
        return device_of(self.name)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits, stable on one machine across restarts.

        It changes with the processor's model, its instruction sets, the number of cores that this process may use,
        the operating system's family, and with an accelerator's model, architecture, memory and driver. Memory of the
        machine, kernel and clock speeds are left out, and so are libraries: their versions are told beside it.
        """
        facts = [self.name, self.processor, list(self.features), self.cores, self.system]
        return digest([*facts, self.accelerator.to_json()] if self.accelerator else facts)[:16]

    def has(self, feature: str) -> bool:
        """Whether what computes has ``feature`` (``avx512_vnni``, ``bf16``, ``fp8``, …)."""
        return feature in self.features

    def version_of(self, distribution: str) -> str | None:
        """Return the version of a distribution where the target was probed, or None if it is not installed there."""
        if self.installed is not None:
            return self.installed.get(distribution)
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            return None


def known_by_name(name: str) -> Target:
    """Return the target of that name where no machine of it was probed: nothing else is known of it.

    Raises:
        UsageError: no target has such a name.
    """
    device_of(name)
    return Target(name=name, processor="", features=(), cores=1, memory_bytes=0, system="")
