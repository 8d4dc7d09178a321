"""Interpreters: backends that live in an interpreter of their own, what those say of themselves, and our code in them.

Runtimes disagree about versions, so an interpreter brings its own packages. Of ours it gets a folder with this code and
nothing else; what is installed here is never on its path.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import evaluators
import workers
from evaluators import registry
from evaluators.capabilities import BackendReport, Capabilities, capabilities_of
from evaluators.errors import InfrastructureError, UsageError
from evaluators.frozen import Frozen, digest
from evaluators.interpreter import Interpreter, users_path
from evaluators.target import Target
from workers.asking import ask

_DISTRIBUTION = "paretune"


class OwnInterpreter(Frozen):
    """The interpreter of one backend, and what it said of that backend on each target of this machine."""

    interpreter: Interpreter
    reports: dict[str, BackendReport]


@dataclass(frozen=True)
class Interpreters:
    """The backends that live in an interpreter of their own; all others live in this process's."""

    own: Mapping[str, OwnInterpreter] = field(default_factory=dict)

    def of(self, backend: str) -> Interpreter | None:
        """Return the interpreter of a backend, or None where it lives in this one."""
        return self.own[backend].interpreter if backend in self.own else None

    def starting(self) -> dict[str, Interpreter]:
        """Return the interpreter of each backend that has one of its own."""
        return {backend: found.interpreter for backend, found in self.own.items()}

    def versions(self, backend: str) -> dict[str, str] | None:
        """Return the versions beside a backend that has an interpreter of its own, as far as they are known."""
        told = self.own[backend].reports.values() if backend in self.own else ()
        return next((report.installed for report in told if report.installed is not None), None)

    def capabilities_of(self, target: Target) -> Capabilities:
        """Return what this machine can run on ``target``, each backend in its interpreter."""
        here = capabilities_of(target)
        reports = tuple(self._report(report, target) for report in here.backends)
        return here.model_copy(update={"backends": reports})

    def notes(self) -> list[str]:
        """Say which backend lives where, with the versions that it has there, one sentence each."""
        return [f"{backend} runs in {found.interpreter.python}{_versions_of(found)}"
                for backend, found in self.own.items()]  # fmt: skip

    def refuse_empty(self) -> None:
        """Refuse interpreters that do not have the runtime for which they were named.

        Raises:
            UsageError: a distribution that the backend requires is not installed there.
        """
        for backend, found in self.own.items():
            installed = self.versions(backend) or {}
            missing = [each for each in registry.backend(backend).requires if each not in installed]
            if missing:
                python = found.interpreter.python
                raise UsageError(
                    f"backend {backend} is to run in {python}, which has no {', '.join(missing)}; "
                    f"install it there: {python} -m pip install {' '.join(missing)}"
                )

    def _report(self, here: BackendReport, target: Target) -> BackendReport:
        found = self.own.get(here.name)
        if found is None:
            return here
        python = found.interpreter.python
        if target.name not in found.reports:
            why = f"{python} does not see {target.name} on this machine"
            return here.model_copy(update={"usable": False, "reason": why, "versions": {}, "python": python})
        told = found.reports[target.name]
        reason = told.reason and f"in {python}: {told.reason.replace('pip install', f'{python} -m pip install')}"
        return told.model_copy(update={"python": python, "reason": reason})


def open_interpreters(pythons: Mapping[str, str], folder: Path) -> Interpreters:
    """Ask the interpreters of backends (``{backend: path of the executable}``) what they are and can run.

    Our code is laid out for them under ``folder``, which must stay as long as they are used.

    Raises:
        UsageError: no backend has this name, or the interpreter cannot be used: the message says why.
        InfrastructureError: ``folder`` cannot be written.
    """
    for backend, python in pythons.items():
        registry.backend(backend)
        _refuse_file(backend, Path(python))
    if not pythons:
        return Interpreters()
    path = (str(_laid_out(folder)), *users_path())
    own = {}
    for backend, python in pythons.items():
        interpreter = Interpreter(python=python, path=path)
        try:
            told = ask(interpreter, os.stat(python).st_mtime_ns, metadata.version(_DISTRIBUTION))
        except UsageError as error:
            raise UsageError(f"backend {backend} cannot run in {python}: {error}") from None
        reports = {}
        for capabilities in told:
            for report in capabilities.backends:
                if report.name == backend:
                    installed = capabilities.target.installed
                    reports[capabilities.target.name] = report.model_copy(update={"installed": installed})
        if not reports:
            raise UsageError(f"backend {backend} cannot run in {python}: nobody has told it of this backend there; "
                             "install the plugin there too")  # fmt: skip
        own[backend] = OwnInterpreter(interpreter=interpreter, reports=reports)
    return Interpreters(own)


def _refuse_file(backend: str, python: Path) -> None:
    if not python.is_absolute():
        raise UsageError(f"the interpreter of backend {backend} must be an absolute path, got {str(python)!r}")
    if not python.is_file():
        raise UsageError(f"the interpreter of backend {backend}, {python}, does not exist or is no file")
    if not os.access(python, os.X_OK):
        raise UsageError(f"the interpreter of backend {backend}, {python}, cannot be executed by this user")


def _versions_of(found: OwnInterpreter) -> str:
    versions = next((report.versions for report in found.reports.values() if report.usable), {})
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f" ({said})" if said else ""


def _laid_out(folder: Path) -> Path:
    """Return a folder that makes this very code importable, with its entry points, and nothing beside it."""
    packages = {name: Path(module.__path__[0]).resolve() for name, module in
                (("evaluators", evaluators), ("workers", workers))}  # fmt: skip
    distribution = metadata.distribution(_DISTRIBUTION)
    points = distribution.read_text("entry_points.txt") or ""
    facts = [{name: str(place) for name, place in packages.items()}, distribution.version, points]
    made = folder / digest(facts)[:16]
    if made.is_dir():
        return made
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
        try:
            for name, place in packages.items():
                (temporary / name).symlink_to(place, target_is_directory=True)
            about = temporary / f"{_DISTRIBUTION}-{distribution.version}.dist-info"
            about.mkdir()
            (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {_DISTRIBUTION}\n"
                                            f"Version: {distribution.version}\n")  # fmt: skip
            (about / "entry_points.txt").write_text(points)
            temporary.rename(made)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        if made.is_dir():  # another process was quicker
            return made
        raise InfrastructureError(f"folder {folder} cannot be written: {error}") from error
    return made
