"""The kinds of files that a bundle may hold, by how their names end, and what each may not contain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from evaluators.bundle.manifest import Manifest
from evaluators.errors import IntegrityError


@dataclass(frozen=True)
class Content:
    """What the files of a bundle are: ``portable`` to other hardware, and what code of their own loading them runs."""

    portable: bool = True
    runs: str | None = None

    def with_(self, other: Content) -> Content:
        """Return what both together are."""
        return Content(self.portable and other.portable, self.runs or other.runs)


DATA = Content()
Check = Callable[[Path, str], Content]
"""Looks into one file, by its folder and its name; raises IntegrityError for what it may not contain."""


def content_of(folder: Path, manifest: Manifest) -> Content:
    """Look into every file of a bundle whose hashes are right.

    Raises:
        IntegrityError: a file is of a kind that no bundle holds, or contains what it may not.
    """
    found = DATA
    shipped = manifest.preprocessing.file if manifest.preprocessing else None
    for name in manifest.files:
        if name != shipped:
            found = found.with_(_check_of(name, manifest)(folder, name))
    if manifest.candidate.backend == "eager":
        found = found.with_(Content(runs=f"the workload {manifest.workload!r}, which is imported to rebuild the model"))
    return found


def _check_of(name: str, manifest: Manifest) -> Check:
    path = PurePosixPath(name)
    if path.parts[0].endswith(".mlpackage") and len(path.parts) > 1:
        return _coreml
    known = _KINDS.get(path.name) or _KINDS.get(path.suffix)
    if known is not None:
        return known
    if path.suffix and path.suffix in _own_formats(manifest.candidate.backend):
        return _vouched
    raise IntegrityError(
        f"{name!r} is of a kind that no bundle holds; known are {', '.join(sorted(_KINDS))} and *.mlpackage"
    )


def _own_formats(backend: str) -> tuple[str, ...]:
    """Return the further kinds that an installed backend loads."""
    from evaluators.registry import backends

    found = backends().get(backend)
    return () if found is None else found.formats


def _plain(folder: Path, name: str) -> Content:
    return DATA


def _vouched(folder: Path, name: str) -> Content:
    return Content(portable=False, runs=f"{name} is a format that paretune cannot look into")


def _engine(folder: Path, name: str) -> Content:
    return Content(portable=False, runs=f"{name} is an engine, compiled code of a GPU")


def _json(folder: Path, name: str) -> Content:
    from evaluators.bundle.contents.torch_model import check_json

    check_json(folder, name)
    return DATA


def _safetensors(folder: Path, name: str) -> Content:
    from evaluators.bundle.contents.safetensors import check_safetensors

    check_safetensors(folder, name)
    return DATA


def _plan(folder: Path, name: str) -> Content:
    from evaluators.bundle.contents.torch_model import check_plan

    check_plan(folder, name)
    return DATA


def _recipe(folder: Path, name: str) -> Content:
    from evaluators.bundle.contents.torch_model import check_recipe

    check_recipe(folder, name)
    return DATA


def _onnx(folder: Path, name: str) -> Content:
    from evaluators.bundle.contents.onnx import check_onnx

    return Content(portable=check_onnx(folder, name))


def _openvino(folder: Path, name: str) -> Content:
    from evaluators.bundle.contents.openvino import check_openvino

    check_openvino(folder, name)
    return DATA


def _pt2(folder: Path, name: str) -> Content:
    from evaluators.bundle.contents.pt2 import check_pt2

    compiled = check_pt2(folder, name)
    what = (
        "holds native code that inductor compiled" if compiled else "is an exported program, whose text torch evaluates"
    )
    return Content(portable=not compiled, runs=f"{name} {what}")


def _executorch(folder: Path, name: str) -> Content:
    from evaluators.bundle.contents.executorch import check_executorch

    check_executorch(folder, name)
    return DATA


def _coreml(folder: Path, name: str) -> Content:
    from evaluators.bundle.contents.coreml import check_coreml

    check_coreml(folder, name)
    return DATA


_KINDS: dict[str, Check] = {
    "plan.json": _plan, "quantization.json": _recipe, ".json": _json, ".safetensors": _safetensors, ".onnx": _onnx,
    ".xml": _openvino, ".bin": _plain, ".pt2": _pt2, ".engine": _engine, ".plan": _engine, ".pte": _executorch,
}  # fmt: skip
