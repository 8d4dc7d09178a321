"""Interpreter: a Python to start programs of ours with. A backend may have one of its own, with its own packages."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from evaluators.frozen import Frozen

# What would make another Python look for its library or its packages where this one has them.
_NOT_INHERITED = ("PYTHONHOME", "__PYVENV_LAUNCHER__")


class Interpreter(Frozen):
    """An executable, and the folders that its programs import from before what is installed beside it."""

    python: str
    path: tuple[str, ...] = ()

    def command(self, module: str, *arguments: str) -> list[str]:
        """Return the command that runs a module; the working folder is no place to import from."""
        return [self.python, "-P", "-m", module, *arguments]

    def environment(self, given: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment of its programs: what is ``given``, but nothing of another interpreter's packages."""
        dropped = () if self.python == sys.executable else _NOT_INHERITED
        kept = {name: value for name, value in given.items() if name not in dropped}
        return kept | {"PYTHONPATH": os.pathsep.join(self.path)}


def this_interpreter() -> Interpreter:
    """Return the interpreter of this process, with all that it can import beyond its installation.

    Our own source comes first where it is not installed: a user's folder may hold something of the same name.
    """
    ours, entries = str(Path(__file__).resolve().parents[1]), _path_here()
    first = () if _holds_packages(Path(ours)) else (ours,)
    return Interpreter(python=sys.executable, path=(*first, *(entry for entry in entries if entry not in first)))


def users_path() -> tuple[str, ...]:
    """Return the folders of a user's own modules: all that is on the path here and holds no installed packages.

    What is installed here is for this interpreter: another one has other versions of the same packages.
    """
    commands = sysconfig.get_path("scripts")
    return tuple(entry for entry in _path_here() if entry != commands and not _holds_packages(Path(entry)))


def _holds_packages(folder: Path) -> bool:
    """Whether packages are installed in a folder, or it is a part of one that is."""
    return any(next(each.glob("*.dist-info"), None) is not None for each in (folder, *folder.parents))


def _path_here() -> tuple[str, ...]:
    installed = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    known = [entry or os.getcwd() for entry in sys.path if entry not in installed]
    return tuple(entry for entry in known if Path(entry).is_dir() and not entry.endswith("lib-dynload"))
