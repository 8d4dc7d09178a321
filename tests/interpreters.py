"""An interpreter to test with: the packages are those of the tests, and something tells the two apart."""

from __future__ import annotations

import json
import sys
import venv
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from evaluators.interpreter import users_path

# Writes down every program that the interpreter starts, by the arguments that it was started with.
_NOTING = "import json, sys\nwith open({log!r}, 'a') as log:\n    log.write(json.dumps(sys.orig_argv) + '\\n')\n"


def make_interpreter(folder: Path, *, shared: bool = True, versions: Mapping[str, str] | None = None) -> Path:
    """Make a virtual environment that sees the packages of this one, unless it is not ``shared``; return its Python.

    It claims to have other ``versions`` of some distributions, and keeps a log for ``programs_of``.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    if shared:
        mine = set(users_path())
        beside = [entry for entry in sys.path if Path(entry).name == "site-packages" and entry not in mine]
        (packages / "shared.pth").write_text("\n".join(beside))
    for name, version in (versions or {}).items():
        about = packages / f"{name}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (packages / "sitecustomize.py").write_text(_NOTING.format(log=str(folder / "programs.jsonl")))
    return folder / "bin" / "python"


def programs_of(python: Path) -> list[str]:
    """Return the modules that an interpreter was started with, in order; those with code instead are left out."""
    log = python.parent.parent / "programs.jsonl"
    started = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [arguments[arguments.index("-m") + 1] for arguments in started if "-m" in arguments]


def needs(distribution: str, found: set[str]) -> set[str]:
    """Return a distribution and all that it requires, as far as it is installed."""
    if distribution in found or not any(metadata.distributions(name=distribution)):
        return found
    found.add(distribution)
    for text in metadata.requires(distribution) or ():
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            needs(wanted.name, found)
    return found


def an_environment(folder: Path, *distributions: str) -> Path:
    """Make an environment of Python with these distributions and what they require, and return its interpreter."""
    venv.create(folder, with_pip=False, symlinks=True)
    (place,) = (folder / "lib").glob("python*/site-packages")
    names: set[str] = set()
    for distribution in distributions:
        needs(distribution, names)
    for name in names:
        files = metadata.distribution(name)
        for top in {file.parts[0] for file in files.files or ()} - {"..", "__pycache__"}:
            (place / top).symlink_to(Path(str(files.locate_file(top))))
    return folder / "bin" / "python"
