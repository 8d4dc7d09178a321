"""Build one archive with evaluators and its light dependencies, for machines that have only torch and NumPy.

``python scripts/make_bare.py [FOLDER]`` writes ``paretune-evaluators-cp311-linux_x86_64.pyz`` (named after this Python
and this system) to FOLDER, ``dist`` without one. It is made of what is installed here and needs no network. Run it
with ``python FILE.pyz COMMAND``: at its first start it unpacks itself to a private folder of the user's cache.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = (
    "pydantic", "pydantic-core", "annotated-types", "typing-inspection", "typing-extensions", "scipy", "psutil",
    "safetensors", "torch-pruning",
)  # fmt: skip
OPTIONAL = ("torchao", "nvidia-ml-py")
"""int8 and fp8 on CUDA; memory and energy of NVIDIA's GPUs. Taken where they are installed."""

LEFT_OUT = ("__pycache__", "tests", "testing_data", "benchmarks")
FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def tag() -> str:
    """Return what the archive is for: ``cp311-linux_x86_64``."""
    system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return f"cp{sys.version_info.major}{sys.version_info.minor}-{system}"


def contents() -> Iterator[tuple[str, bytes]]:
    """Yield every file of the archive's payload: where it goes, and what is in it."""
    for path in sorted((ROOT / "evaluators").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), path.read_bytes()
    own = metadata.distribution("paretune")
    folder = f"paretune-{own.version}.dist-info"
    yield f"{folder}/METADATA", _text(own, "METADATA", "PKG-INFO")
    yield f"{folder}/entry_points.txt", _text(own, "entry_points.txt")
    for name in (*REQUIRED, *(name for name in OPTIONAL if _installed(name))):
        yield from _files(name)


def build(folder: Path) -> Path:
    """Write the archive into ``folder`` and return its path; equal contents give an equal archive."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"paretune-evaluators-{tag()}.pyz"
    state = hashlib.sha256()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name, content in contents():
            state.update(f"{name}\0{len(content)}\0".encode() + content)
            packed.writestr(zipfile.ZipInfo(f"payload/{name}", FIXED_TIME), content, zipfile.ZIP_DEFLATED, 1)
        start = (Path(__file__).parent / "bare_start.py").read_text()
        settings = f"TAG = {tag()!r}\nDIGEST = {state.hexdigest()[:16]!r}\n"
        packed.writestr(zipfile.ZipInfo("__main__.py", FIXED_TIME), start.replace('TAG = DIGEST = ""\n', settings))
    return archive


def _files(distribution: str) -> Iterator[tuple[str, bytes]]:
    found = metadata.distribution(distribution)
    for file in found.files or ():
        path = Path(str(found.locate_file(file)))
        inside = ".." not in file.parts and not set(file.parts) & set(LEFT_OUT)
        if inside and path.is_file():
            yield file.as_posix(), path.read_bytes()


def _installed(distribution: str) -> bool:
    return any(metadata.distributions(name=distribution))


def _text(distribution: metadata.Distribution, *names: str) -> bytes:
    """Return a file of a distribution's metadata by its name in a wheel, or by the one that it has in a source tree."""
    for name in names:
        if (found := distribution.read_text(name)) is not None:
            return found.encode()
    raise SystemExit(f"paretune is not installed with its {names[0]}: pip install --no-deps -e .")


if __name__ == "__main__":
    written = build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist")
    print(f"{written} ({written.stat().st_size / 1e6:.1f} MB)")
