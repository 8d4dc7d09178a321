"""The gate: what is checked before any runtime sees a file of a bundle. Every loader goes through ``open_bundle``."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluators.bundle.formats import Content, content_of
from evaluators.bundle.manifest import MANIFEST, MOST_BYTES, Manifest, parse_manifest
from evaluators.bundle.tree import file_hashes, hash_of, listed_files, open_file
from evaluators.errors import IntegrityError, TargetMismatchError
from evaluators.target import Target, known_by_name, probe_processor, probe_targets

_CHUNK_BYTES = 2**20


def write_manifest(folder: Path, **fields: Any) -> Manifest:
    """Hash the files in ``folder`` and write its manifest."""
    manifest = Manifest(files=file_hashes(folder), **fields)
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2))
    return manifest


def open_bundle(
    folder: Path, *, targets: Sequence[Target] | None = None, other_target: bool = False, trusted: bool | str = False
) -> Manifest:
    """Check a bundle and that it may run here; call it before every load, with nothing in between.

    Args:
        folder: the bundle.
        targets: what it may have been built for; those of this machine where None.
        other_target: run on another target what is portable (ONNX, OpenVINO IR, eager); nobody measured it there.
        trusted: some bundles run code of their own by design (compiled ones, exported programs, ``eager``, which
            imports the workload). True says that whoever calls made this one or got it from there; a string is the
            digest that the bundle must have, as its builder told it. False refuses such bundles.

    Raises:
        IntegrityError: a file is missing, foreign or altered, holds what a model file may not hold, or runs code that
            nobody vouches for.
        TargetMismatchError: it is for other hardware.
    """
    manifest, content = _checked(folder)
    if isinstance(trusted, str) and trusted != manifest.digest:
        raise IntegrityError(f"bundle {folder} has the digest {manifest.digest}, and {trusted} was expected")
    if content.runs is not None and not trusted:
        raise IntegrityError(
            f"bundle {folder} runs code of its own: {content.runs}. If whoever built it told you that its digest is "
            f"{manifest.digest}, say so with --trust {manifest.digest}"
        )
    if (why := why_not_here(manifest, _own_targets(manifest) if targets is None else targets)) is not None:
        if not content.portable:
            raise TargetMismatchError(
                f"bundle {folder} {why}; its files are compiled for that one: build it again here"
            )
        if not other_target:
            raise TargetMismatchError(
                f"bundle {folder} {why}; what was measured does not hold here. To run it all the same, say "
                "--allow-other-target"
            )
    return manifest


def read_manifest(folder: Path, *, verify: bool = True) -> Manifest:
    """Read a bundle's manifest and, with ``verify``, check every file: name, kind, hash and content. Runs nothing.

    Raises:
        IntegrityError: the manifest is missing or malformed, a file is missing, foreign or altered, or a file holds
            what a model file may not hold.
    """
    return _checked(folder)[0] if verify else _read(folder)


def content_of_bundle(folder: Path) -> Content:
    """Return whether a bundle is portable and what code of its own it runs, after checking all of it."""
    return _checked(folder)[1]


def why_not_here(manifest: Manifest, targets: Sequence[Target]) -> str | None:
    """Return how what a bundle was built for differs from all of ``targets``, or None where it is one of them.

    One that was built where no machine of its target was at hand is for every machine of that name.
    """
    name = manifest.candidate.target
    named = [target for target in targets if target.name == name]
    known = {*(target.fingerprint for target in named), known_by_name(name).fingerprint}
    if named and manifest.target_fingerprint in known:
        return None
    if named:
        found = ", ".join(target.fingerprint for target in named)
        return f"was built for another {name} (fingerprint {manifest.target_fingerprint}; here it is {found})"
    return f"was built for {name}, and this machine is {', '.join(target.name for target in targets)}"


def size_bytes(folder: Path) -> int:
    """Return the bytes on disk of everything a deployment ships."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def compressed_bytes(folder: Path) -> int:
    """Return the bytes of the same files once each is deflated, as a zip archive or an image layer holds them.

    At the fastest level: weights that are zero go, and others hardly shrink at any.
    """
    return sum(
        _deflated(path) for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST
    )  # fmt: skip


def _deflated(path: Path) -> int:
    compressor, size = zlib.compressobj(zlib.Z_BEST_SPEED), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(compressor.compress(chunk))
    return size + len(compressor.flush())


def _own_targets(manifest: Manifest) -> Sequence[Target]:
    """Return what this machine offers; the processor alone where that is the bundle's: it is read without a program."""
    processor = (probe_processor(),)
    return processor if why_not_here(manifest, processor) is None else probe_targets()


def _read(folder: Path) -> Manifest:
    try:
        with open_file(folder, MANIFEST) as file:
            return parse_manifest(file.read(MOST_BYTES + 1))
    except (IntegrityError, OSError) as error:
        raise IntegrityError(f"bundle {folder} has no readable manifest: {error}") from error


def _checked(folder: Path) -> tuple[Manifest, Content]:
    manifest = _read(folder)
    try:
        _compare_names(listed_files(folder), manifest)
        _compare_hashes(folder, manifest)
        return manifest, content_of(folder, manifest)
    except IntegrityError as error:
        raise IntegrityError(f"bundle {folder} is not what was built: {error}") from error
    except OSError as error:
        raise IntegrityError(f"bundle {folder} cannot be read: {error}") from error


def _compare_names(listed: dict[str, int], manifest: Manifest) -> None:
    found = listed.keys() - {MANIFEST}
    if missing := sorted(manifest.files.keys() - found):
        raise IntegrityError(f"{', '.join(missing)[:500]} missing")
    if foreign := sorted(found - manifest.files.keys()):
        raise IntegrityError(f"{', '.join(foreign)[:500]} foreign: the manifest does not list it")


def _compare_hashes(folder: Path, manifest: Manifest) -> None:
    if altered := [name for name, sha in manifest.files.items() if hash_of(folder, name) != sha]:
        raise IntegrityError(f"{', '.join(altered)[:500]} altered: it has another hash than the manifest says")
