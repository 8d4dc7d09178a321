"""A process that loads bundles as a deployment does, and writes down every file that is opened meanwhile.

``python -m tests.security.loading ANSWER FOLDER…``: for each folder, how it was refused (or null) and what was opened.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from evaluators import registry
from evaluators.bundle import open_bundle

opened: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "ctypes.dlopen", "os.system", "subprocess.Popen", "os.listdir", "os.scandir"):
        opened.append(os.path.realpath(str(arguments[0])))


def attempt(folder: Path) -> dict[str, Any]:
    """Trust what the bundle says about its code, so that nothing but its contents can be why it is refused."""
    opened.clear()
    refused = kind = code = None
    try:
        manifest = open_bundle(folder, trusted=True)
        registry.backend(manifest.candidate.backend).load(folder, manifest)
    except Exception as error:
        refused, kind, code = str(error), type(error).__name__, getattr(error, "exit_code", None)
    return {"refused": refused, "kind": kind, "code": code, "opened": list(opened)}


if __name__ == "__main__":
    registry.backends()
    sys.addaudithook(watch)
    answers = {folder: attempt(Path(folder)) for folder in sys.argv[2:]}
    Path(sys.argv[1]).write_text(json.dumps(answers))
