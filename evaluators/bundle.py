"""Bundle: what a trial builds and a deployment ships — files, and a manifest that hashes every one of them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from evaluators.cache import file_hashes
from evaluators.candidate import Candidate
from evaluators.errors import IntegrityError
from evaluators.frozen import Frozen, canonical_json
from evaluators.structure import Structure

MANIFEST = "manifest.json"


class Manifest(Frozen):
    """What is in a bundle and how to run it.

    Attributes:
        candidate: what was built; its runtime options are how to run it.
        workload: reference of the user's workload (only ``eager`` bundles need its code).
        inputs / outputs: structure of a batch; axis 0 is ``candidate.batch_size``.
        files: SHA-256 (hexadecimal) of every file, by path relative to the bundle.
        environment: versions of Python and of the distributions that built it.
        target_fingerprint: the machine that it was built on.
        parameters / flops: of the model in the bundle; flops of one example, a multiply-add counts as two.
    """

    schema_version: int = 1
    candidate: Candidate
    workload: str
    inputs: Structure
    outputs: Structure
    files: dict[str, str]
    environment: dict[str, str]
    target_fingerprint: str
    parameters: int | None = None
    flops: int | None = None

    @property
    def digest(self) -> str:
        """Hash of the bundle: of the manifest, which holds the hash of every file."""
        return hashlib.sha256(canonical_json(self.to_json()).encode()).hexdigest()


def write_manifest(folder: Path, **fields: Any) -> Manifest:
    """Hash the files in ``folder`` and write its manifest."""
    manifest = Manifest(files=file_hashes(folder, leave_out=MANIFEST), **fields)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2))
    return manifest


def read_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """Read a bundle's manifest and, with ``verify``, check that its files are exactly those it lists.

    Raises:
        IntegrityError: the manifest is missing or malformed, or a file is missing, foreign or altered.
    """
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise IntegrityError(f"bundle {folder} has no readable manifest: {error}") from error
    if verify and (found := file_hashes(folder, leave_out=MANIFEST)) != manifest.files:
        names = found.keys() | manifest.files.keys()
        changed = sorted(name for name in names if found.get(name) != manifest.files.get(name))
        raise IntegrityError(f"bundle {folder} is not what was built: {', '.join(changed)} missing, foreign or altered")
    return manifest


def size_bytes(folder: Path) -> int:
    """Return the bytes on disk of everything a deployment ships."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
