"""What is exported: a bundle found by folder, as a trial or as an alias, and checked before anything is copied."""

from __future__ import annotations

import re
import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from evaluators.bundle import MANIFEST, Manifest, read_manifest
from evaluators.bundle.opening import content_of_bundle
from evaluators.bundle.tree import hash_of
from evaluators.errors import InfeasibleError, IntegrityError, UsageError
from evaluators.stages.reference import example_file
from search.exports.evidence import ExportEvidence, certified, measured, unknown
from search.promotion.names import parse_model_alias
from workers.ledger import Ledger

_TRIAL = re.compile(r"(?P<search>[^/:]+)[/:](?P<number>\d+)")


@dataclass(frozen=True)
class Source:
    """A bundle that is what was built, its evidence, and a batch of real inputs where one is kept.

    ``name`` is what a serving system may call it, ``runs_code`` what code of its own it runs, if any.
    """

    folder: Path
    manifest: Manifest
    evidence: ExportEvidence
    name: str
    example: Path | None = None
    runs_code: str | None = None

    def copy_bundle(self, to: Path) -> None:
        """Copy the whole bundle.

        Raises:
            IntegrityError: a file was changed since it was checked.
        """
        for name in (*self.manifest.files, MANIFEST):
            self.copy_file(name, to / name)

    def copy_file(self, name: str, to: Path) -> None:
        """Copy one file of the bundle, and compare the copy with the hash that was measured.

        Raises:
            IntegrityError: it was changed since it was checked.
        """
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / name, to)
        if name == MANIFEST:
            changed = read_manifest(to.parent, verify=False).digest != self.manifest.digest
        else:
            changed = hash_of(to.parent, to.name) != self.manifest.files[name]
        if changed:
            raise IntegrityError(f"{name} of bundle {self.folder} was changed while it was exported")


def find_source(reference: str, home: Path, trial: int | None = None, trust: str | None = None) -> Source:
    """Find what a reference names: a folder of a bundle, ``SEARCH`` with or without a trial, or ``NAME@ALIAS``.

    Raises:
        UsageError: there is no such thing, or it has no bundle.
        InfeasibleError: no trial was named, and nothing is feasible.
        IntegrityError: the bundle is not what was built, or runs code that nobody vouches for.
    """
    folder = Path(reference)
    if (folder / MANIFEST).is_file():
        _no_trial(reference, trial)
        ours = folder.resolve().is_relative_to((home / "bundles").resolve())
        manifest, runs = _checked(folder.resolve(), ours, trust)
        return Source(folder.resolve(), manifest, unknown(reference, manifest), "model", runs_code=runs)
    if trust is not None:
        raise UsageError(f"--trust vouches for a folder that came from elsewhere; {reference} is of this home")
    if not home.is_dir():
        raise UsageError(f"home {home} does not exist, so it holds no {reference}; name another with --home")
    if "@" in reference:
        _no_trial(reference, trial)
        return _of_alias(reference, home)
    if (named := _TRIAL.fullmatch(reference)) is not None and trial is None:
        return _of_trial(reference, named["search"], home, int(named["number"]))
    return _of_trial(reference, reference, home, trial)


def _of_alias(reference: str, home: Path) -> Source:
    from search.promotion.promoting import deployed
    from search.promotion.registry import Registry

    name = parse_model_alias(reference)
    with closing(Ledger.at(home)) as ledger:
        version, certificate, _ = deployed(ledger, Registry(home), name)
    folder = Path(version.bundle)
    manifest, runs = _checked(folder, True, None)
    if manifest.digest != certificate.digest:
        raise IntegrityError(f"{reference} serves the bundle {manifest.digest[:16]}, and {certificate.digest[:16]} "
                             "passed the gates; run paretune reconcile")  # fmt: skip
    evidence = certified(reference, manifest, certificate)
    return Source(folder, manifest, evidence, safe_name(name.model), _example(home, certificate.workload_fingerprint),
                  runs)  # fmt: skip


def _of_trial(reference: str, search: str, home: Path, number: int | None) -> Source:
    from search import api

    result = api.result(search, home)
    if number is None and result.best is None:
        raise InfeasibleError(
            f"search {result.name} has no feasible trial; name one to export it all the same: --trial N"
        )
    wanted = number if number is not None or result.best is None else result.best.number
    trial = next((trial for trial in api.trials(search, home) if trial.number == wanted), None)
    if trial is None or trial.bundle is None:
        raise UsageError(f"search {result.name} has no bundle of a trial {wanted}; paretune trials {result.name} lists "
                         "what there is")  # fmt: skip
    folder = home / trial.bundle
    manifest, runs = _checked(folder, True, None)
    with closing(Ledger.at(home)) as ledger:
        profile = ledger.search(search).profile
    return Source(
        folder, manifest, measured(reference, manifest, result, trial),
        safe_name(profile.name if profile else "model"), _example(home, profile.fingerprint if profile else ""), runs,
    )  # fmt: skip


def safe_name(text: str) -> str:
    """Return a name that every serving system takes."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") or "model"


def _checked(folder: Path, ours: bool, trust: str | None) -> tuple[Manifest, str | None]:
    """Check every file of a bundle; what runs code of its own must be ours or vouched for, as at ``open_bundle``."""
    content = content_of_bundle(folder)
    manifest = read_manifest(folder, verify=False)
    if trust is not None and trust != manifest.digest:
        raise IntegrityError(f"bundle {folder} has the digest {manifest.digest}, and {trust} was expected")
    if content.runs is not None and not ours and trust is None:
        raise IntegrityError(f"bundle {folder} runs code of its own: {content.runs}. If whoever built it told you that "
                             f"its digest is {manifest.digest}, say so with --trust {manifest.digest}")  # fmt: skip
    return manifest, content.runs


def _no_trial(reference: str, trial: int | None) -> None:
    if trial is not None:
        raise UsageError(f"{reference} is one bundle; --trial {trial} is for searches")


def _example(home: Path, fingerprint: str) -> Path | None:
    file = example_file(home, fingerprint)
    return file if fingerprint and file.is_file() else None
