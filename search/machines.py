"""Machines: what this one is and can run, and the worker that serves searches with it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType

from pydantic import Field

from evaluators.capabilities import BackendReport as BackendReport
from evaluators.capabilities import runtime_versions
from evaluators.errors import UsageError
from evaluators.frozen import Frozen
from evaluators.target import (
    Target,
    default_target,
    devices_of,
    probe_absent,
    probe_problems,
    probe_target,
    probe_targets,
)
from search.revalidations import Revalidations
from workers.alive import touching
from workers.interpreters import Interpreters, open_interpreters
from workers.keeping import Keeping
from workers.lease import Cancellation
from workers.ledger import Ledger
from workers.meter import Meter
from workers.sandbox import Sandbox
from workers.worker import Hear, Worker


class TargetReport(Frozen):
    """One target of this machine: what it is, its devices, and every backend on it."""

    target: Target
    fingerprint: str
    devices: tuple[str, ...]
    default: bool
    backends: tuple[BackendReport, ...]


class DoctorReport(Frozen):
    """This machine: its default target and every backend on it, then all of its targets.

    Attributes:
        why: why ``target`` is the one that is meant where none is named.
        problems: what could not be asked of this machine, such as a driver that gives no answer.
        absent: families of accelerators that it does not offer, and why.
        versions: of Python and of every library that results depend on.
    """

    target: Target
    fingerprint: str
    backends: tuple[BackendReport, ...]
    why: str = ""
    targets: tuple[TargetReport, ...] = ()
    problems: tuple[str, ...] = ()
    absent: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)


class WorkerReport(Frozen):
    """A worker that has ended: what it served, and how many trials it finished."""

    worker: str
    target: str
    device: str
    finished: int


def doctor(backend_python: Mapping[str, str] = MappingProxyType({})) -> DoctorReport:
    """Probe this machine: its targets, and every backend on each of them, in the interpreter that it lives in.

    Raises:
        UsageError: an interpreter of ``backend_python`` cannot be used.
    """
    default = default_target()
    with tempfile.TemporaryDirectory(prefix="paretune-") as folder:
        interpreters = open_interpreters(backend_python, Path(folder))
    found = [(target, interpreters.capabilities_of(target).backends) for target in probe_targets()]
    targets = tuple(
        TargetReport(target=target, fingerprint=target.fingerprint, devices=devices_of(target.name),
                     default=target.name == default.name, backends=backends)
        for target, backends in found
    )  # fmt: skip
    chosen = next(report for report in targets if report.default)
    return DoctorReport(
        target=chosen.target, fingerprint=chosen.fingerprint, backends=chosen.backends, why=default.why,
        targets=targets, problems=probe_problems(), absent=probe_absent(), versions=runtime_versions(),
    )  # fmt: skip


def work(
    ledger: Ledger, home: Path, *, target: str | None, device: str | None, name: str | None, broker: str | None,
    say: Callable[[str], None], drain: Cancellation, abort: Cancellation, interpreters: Interpreters,
    alive: Path | None = None, keeping: Keeping | None = None, meter: Meter | None = None,
) -> WorkerReport:  # fmt: skip
    """Serve one target of this machine, see ``search.api.work``."""
    found = probe_target(target)
    devices = devices_of(found.name)
    if device is not None and device not in devices:
        raise UsageError(f"{found.name} has no device {device!r} here; it has {', '.join(devices)}")
    capabilities = interpreters.capabilities_of(found)
    usable = [report.name for report in capabilities.backends if report.usable]
    if not usable:
        reasons = "; ".join(f"{report.name}: {report.reason}" for report in capabilities.backends)
        raise UsageError(f"no backend can be used on {found.name}: {reasons}")
    tell = touching(alive)
    with Sandbox() as sandbox:
        errands = Revalidations(ledger, home, sandbox, device or devices[0] if devices else None, say, (drain, abort))
        hear = None if broker is None else _hear_through(broker, found.name, errands.check)
        worker = Worker(ledger, sandbox, home, capabilities, name=name, device=device, say=say, alive=tell,
                        interpreters=interpreters, keeping=keeping, meter=meter)  # fmt: skip
        for note in interpreters.notes():
            say(note)
        say(f"{worker.name} serves {found.name} on {worker.device} with {', '.join(usable)}; home {home}")
        finished = worker.run(drain, abort, hear)
    return WorkerReport(worker=worker.name, target=found.name, device=worker.device, finished=finished)


def _hear_through(broker: str, target: str, revalidate: Callable[[str, float], None]) -> Hear:
    from workers.celery_app import hear, make_app

    return partial(hear, make_app(broker, [target]), revalidate=revalidate)
