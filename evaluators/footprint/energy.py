"""Energy over a span: counters of whole processor packages (RAPL) and of the GPUs that a process uses (NVML).

Nothing is subtracted: what the machine draws when idle, and what other programs cause, is in it. Memory modules are
counted only where they belong to the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

POWERCAP = Path("/sys/class/powercap")


class Counter(Protocol):
    """A counter of energy that only ever grows, until it wraps around."""

    @property
    def name(self) -> str:
        """What it counts the energy of."""

    def read(self) -> int:
        """Return the counter, in its own unit."""

    def joules(self, before: int, after: int) -> float:
        """Return the energy between two readings, in joules."""


@dataclass(frozen=True)
class Package:
    """The RAPL counter of one processor package, in microjoules; it wraps around at ``range_uj``.

    Source: Linux, Documentation/power/powercap/powercap.rst. It wraps around after minutes at the soonest; a span must
    be shorter than that.
    """

    name: str
    path: Path
    range_uj: int

    def read(self) -> int:
        """Return the counter in microjoules."""
        return int((self.path / "energy_uj").read_text())

    def joules(self, before: int, after: int) -> float:
        """Return the energy between two readings, over one wrap-around at most."""
        return (after - before if after >= before else after - before + self.range_uj) / 1e6


def packages(powercap: Path = POWERCAP) -> tuple[tuple[Package, ...], str | None]:
    """Return the counters of all processor packages, or none of them and the reason.

    Domains within a package (``intel-rapl:0:1``) and of the platform (``psys``) are counted in or beside it and are
    left out, as is ``intel-rapl-mmio``, which tells the same packages once more.
    """
    found = []
    try:
        for folder in sorted(powercap.glob("intel-rapl:*")):
            name = (folder / "name").read_text().strip()
            if name.startswith("package"):
                package = Package(name, folder, int((folder / "max_energy_range_uj").read_text()))
                package.read()
                found.append(package)
    except PermissionError as error:
        return (), f"{error.filename} may be read by root alone: chmod a+r lets others measure energy"
    except (OSError, ValueError) as error:
        return (), f"the RAPL counters under {powercap} cannot be read: {error}"
    return tuple(found), None if found else f"this machine shows no RAPL counter of a package under {powercap}"


class EnergyMeter:
    """Counts joules from entering a ``with`` block to leaving it; ``joules`` stays None where there is no counter."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = tuple(counters)
        self._before: list[int] = []
        self.joules: float | None = None

    def __enter__(self) -> Self:
        self._before = [counter.read() for counter in self._counters]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._counters:
            after = [counter.read() for counter in self._counters]
            readings = zip(self._counters, self._before, after, strict=True)
            self.joules = sum(counter.joules(start, end) for counter, start, end in readings)
