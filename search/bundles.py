"""Bundles as users ask about them: found by path or by trial, inspected, verified, and run in another process."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from evaluators.bundle import Manifest, read_manifest, size_bytes
from evaluators.bundle.opening import content_of_bundle, why_not_here
from evaluators.errors import InfrastructureError, IntegrityError, UsageError
from evaluators.frozen import Frozen
from evaluators.interpreter import this_interpreter
from evaluators.run_bundle import BundleRun
from evaluators.target import environment, probe_targets
from evaluators.workload import UNPACKED
from workers.interpreters import Interpreters, open_interpreters
from workers.sharing import Sharing
from workers.uploads import bring_workload, unpacked_folder

Pythons = Mapping[str, str]
NO_PYTHONS: Pythons = MappingProxyType({})

_ERRORS = {IntegrityError.exit_code: IntegrityError, UsageError.exit_code: UsageError}


class BundleReport(Frozen):
    """What a bundle says of itself, and how this machine differs from the one that built it.

    Attributes:
        other_versions: distributions whose installed version is another than built it; null where not installed.
        other_target: how its target differs from this machine, or null.
        portable / runs_code: of a verified bundle: whether other hardware may run it, and what code of its own it runs.
    """

    bundle: str
    digest: str
    size_bytes: int
    manifest: Manifest
    other_versions: dict[str, str | None]
    other_target: str | None
    portable: bool | None = None
    runs_code: str | None = None


def find_bundle(reference: str, home: Path) -> Path:
    """Return the folder of a bundle, by its path or as ``SEARCH:TRIAL``; fetched where another home built it.

    Raises:
        UsageError: there is none.
        IntegrityError: what is in the store that the home shares is not what was built.
    """
    if (folder := Path(reference)).is_dir():
        return folder
    search, separator, number = reference.rpartition(":")
    if not separator or not number.isdigit() or "/" in search:
        raise UsageError(f"{reference!r} is no folder of a bundle, and no trial such as latest:7")
    if not home.is_dir():
        raise UsageError(f"home {home} does not exist, so it holds no search; name another with --home")
    from search import api

    trial = next((trial for trial in api.trials(search, home) if trial.number == int(number)), None)
    if trial is None or trial.bundle is None:
        raise UsageError(f"search {search!r} has no bundle of a trial {number}")
    return Sharing.of(home).bundle(trial.bundle)


def inspect_bundle(folder: Path, backend_python: Pythons = NO_PYTHONS) -> BundleReport:
    """Read what a bundle says of itself; its files are not looked at.

    Versions are compared with those of the interpreter that its backend lives in.

    Raises:
        IntegrityError: there is no manifest that can be read.
        UsageError: that interpreter cannot be used.
    """
    manifest = read_manifest(folder, verify=False)
    with _interpreters_for(manifest, backend_python) as interpreters:
        beside = interpreters.versions(manifest.candidate.backend)
    here = environment(*manifest.environment) if beside is None else beside
    return BundleReport(
        bundle=str(folder), digest=manifest.digest, size_bytes=size_bytes(folder), manifest=manifest,
        other_versions={name: here.get(name) for name, version in manifest.environment.items()
                        if here.get(name) != version},
        other_target=why_not_here(manifest, probe_targets()),
    )  # fmt: skip


def verify_bundle(folder: Path, backend_python: Pythons = NO_PYTHONS) -> BundleReport:
    """Check every file of a bundle, and run nothing of it.

    Raises:
        IntegrityError: it is not what was built, or holds what a bundle may not hold.
    """
    content = content_of_bundle(folder)
    return inspect_bundle(folder, backend_python).model_copy(
        update={"portable": content.portable, "runs_code": content.runs}
    )


def run_bundle(
    folder: Path, home: Path, *, file: Path | None = None, workload: str | None = None, examples: int = 100,
    output: Path | None = None, scores: Path | None = None, other_target: bool = False, trust: str | None = None,
    backend_python: Pythons = NO_PYTHONS,
) -> BundleRun:  # fmt: skip
    """Run a bundle in a process of its own, which opens it; what lies in this home's own bundles is trusted.

    The process is one of the interpreter that its backend lives in.

    Raises:
        UsageError: inputs, workload or interpreter cannot be used.
        IntegrityError: it is refused.
        InfrastructureError: the process died.
    """
    own = folder.resolve().is_relative_to((home / "bundles").resolve())
    options = {
        "--input": file, "--workload": workload, "--examples": examples, "--output": output,
        "--scores": scores,
        "--trust": trust or ("own" if own else None),
    }  # fmt: skip
    given = [str(part) for name, value in options.items() if value is not None for part in (name, value)]
    given += ["--allow-other-target"] if other_target else []
    manifest = read_manifest(folder, verify=False)
    for reference in (workload, manifest.workload if manifest.candidate.backend == "eager" else None):
        bring_workload(reference or "", home)
    unpacked = {UNPACKED: str(unpacked_folder(home.resolve()))}
    with _interpreters_for(manifest, backend_python) as interpreters:
        interpreter = interpreters.of(manifest.candidate.backend) or this_interpreter()
        ended = subprocess.run(  # noqa: S603
            interpreter.command("evaluators.run_bundle", str(folder), *given), capture_output=True, text=True,
            check=False, stdin=subprocess.DEVNULL, env=interpreter.environment() | unpacked,
        )  # fmt: skip
    lines = ended.stderr.strip().splitlines() or ["nothing"]
    said = lines[-1].removeprefix("error: ")
    if ended.returncode in _ERRORS and lines[-1].startswith("error: "):
        raise _ERRORS[ended.returncode](said)
    try:
        return BundleRun.model_validate_json(ended.stdout)
    except ValidationError:
        raise InfrastructureError(
            f"running bundle {folder} ended with code {ended.returncode} and no answer; it said: {said[:500]}"
        ) from None


@contextmanager
def _interpreters_for(manifest: Manifest, backend_python: Pythons) -> Iterator[Interpreters]:
    """Open the interpreter of a bundle's backend, if it has one of its own; the others are not asked."""
    backend = manifest.candidate.backend
    chosen = {backend: backend_python[backend]} if backend in backend_python else {}
    with tempfile.TemporaryDirectory(prefix="paretune-") as folder:
        yield open_interpreters(chosen, Path(folder))
