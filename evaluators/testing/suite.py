"""The conformance suite without pytest: every check on every case, each answered by a ``Result``.

    for result in run_suite("onnxruntime"):
        print(result)

Nothing is left out silently: what cannot be tried on this machine is a result of its own, with the reason.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from evaluators import registry
from evaluators.frozen import Frozen
from evaluators.testing import computing, declaring, processes
from evaluators.testing.cases import (
    SETTINGS,
    Case,
    NonconformingError,
    UnavailableError,
    cases,
    representatives,
    variations,
)

Check = Callable[[Case, Path], None]


class Result(Frozen):
    """How one check of one case ended.

    ``unavailable`` is no failure: the case cannot be tried on this machine, and ``reason`` is the backend's own.
    """

    case: str
    check: str
    backend: str
    scheme: str
    status: Literal["passed", "failed", "unavailable"]
    reason: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.status:<11} {self.case} {self.check}{reason}"


@dataclass(frozen=True)
class Asked:
    """A check, and which cases of a backend it is put to."""

    check: Check
    of: Callable[[str], list[Case]]

    @property
    def what(self) -> str:
        """What it checks, in a sentence."""
        return (self.check.__doc__ or "").partition("\n")[0]


def _of_first(backend: str) -> list[Case]:
    """Return the cases of every scheme on the first setting."""
    return [case for case in cases(backend) if (case.workload, case.batch_size) == SETTINGS[0]]


CHECKS: Mapping[str, Asked] = MappingProxyType({
    "declared": Asked(declaring.check_declared, representatives),
    "parity": Asked(computing.check_parity, cases),
    "repeatable": Asked(computing.check_repeatable, cases),
    "batch_invariance": Asked(computing.check_batch_invariance, cases),
    "batch_sizes": Asked(computing.check_batch_sizes, representatives),
    "round_trip": Asked(processes.check_round_trip, _of_first),
    "threads": Asked(processes.check_threads, representatives),
    "inputs": Asked(processes.check_inputs, representatives),
    "integrity": Asked(processes.check_integrity, representatives),
    "unsupported": Asked(processes.check_unsupported, representatives),
    "time_limit": Asked(processes.check_time_limit, representatives),
    "knobs": Asked(computing.check_value, variations),
})  # fmt: skip
"""Every check by name, in the order in which they are run."""


def run_check(name: str, case: Case, home: Path) -> Result:
    """Put one check to one case; what goes wrong is the result. Bundles and caches are kept under ``home``."""
    status: Literal["passed", "failed", "unavailable"] = "passed"
    reason, begun = "", time.perf_counter()
    try:
        CHECKS[name].check(case, home)
    except UnavailableError as error:
        status, reason = "unavailable", str(error)
    except NonconformingError as error:
        status, reason = "failed", str(error)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        status = "failed"
        reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
    return Result(
        case=str(case), check=name, backend=case.backend, scheme=case.scheme, status=status,
        reason=" ".join(reason.split()), seconds=time.perf_counter() - begun,
    )  # fmt: skip


def run_checks(name: str, backend: str, home: Path) -> Iterator[Result]:
    """Put one check to every case of one backend that it is meant for."""
    for case in CHECKS[name].of(backend):
        yield run_check(name, case, home)


def results(backend: str | None = None, home: Path | None = None) -> Iterator[Result]:
    """Run the suite for one backend, or for every registered one, and yield each result as it is found.

    Plugins that cannot be loaded are results too. Without ``home``, bundles go into a folder that is removed.
    """
    for name, why in registry.broken().items() if backend is None else ():
        yield Result(case=name, check="declared", backend=name, scheme="", status="failed", reason=why)
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        for name in sorted(registry.backends()) if backend is None else [registry.backend(backend).name]:
            for check in CHECKS:
                yield from run_checks(check, name, home or Path(scratch))


def run_suite(backend: str | None = None, home: Path | None = None) -> list[Result]:
    """Run the suite for one backend, or for every registered one; see ``results``.

    Raises:
        UsageError: no backend has this name.
    """
    return list(results(backend, home))


def promised(distribution: str = "paretune") -> frozenset[str]:
    """Return the backends that the extra ``all`` of a distribution brings, and those that need nothing."""
    extras: set[str] = {""}
    for requirement in metadata.requires(distribution) or ():
        wanted, _, marker = requirement.partition(";")
        if marker.replace("'", '"').strip() == 'extra == "all"' and "[" in wanted:
            extras |= {extra.strip() for extra in wanted[wanted.index("[") + 1 : wanted.index("]")].split(",")}
    return frozenset(name for name, item in registry.backends().items() if item.extra in extras and _ours(item))


def _ours(backend: object) -> bool:
    return type(backend).__module__.partition(".")[0] == __name__.partition(".")[0]
