"""The software that a result depends on: versions of distributions, and what torch here was built for."""

from __future__ import annotations

import importlib.util
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

from evaluators.target.values import Target

_BUILT = re.compile(r"^(cuda|hip)\b[^=]*=\s*['\"]([^'\"]+)['\"]", re.M)


def versions(*distributions: str) -> dict[str, str]:
    """Return the installed version of each distribution; those that are not installed are left out."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def environment(*distributions: str) -> dict[str, str]:
    """Return the versions that a result depends on: Python, torch and ``distributions``."""
    return {"python": platform.python_version(), **versions("paretune", "torch", "numpy", *distributions)}


def environment_of(target: Target, *distributions: str) -> dict[str, str]:
    """Return the same versions as they are on the machine of ``target``."""
    if target.installed is None:
        return environment(*distributions)
    wanted = ("python", "paretune", "torch", "numpy", *distributions)
    return {name: target.installed[name] for name in wanted if name in target.installed}


def torch_devices() -> dict[str, str]:
    """Return the families of accelerators that torch here was built for, and with what: ``{"cuda": "12.6"}``.

    Reads torch's file of its version: importing torch would take seconds and may touch a device.
    """
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return {}
    file = Path(found.origin).parent / "version.py"
    built = parse_torch_build(file.read_text()) if file.is_file() else {}
    return built | ({"apple": "Metal"} if sys.platform == "darwin" and platform.machine() == "arm64" else {})


def parse_torch_build(text: str) -> dict[str, str]:
    """Read torch's ``version.py``: the version of CUDA as ``cuda``, or that of HIP as ``rocm``."""
    built = dict(_BUILT.findall(text))
    # A build for AMD names HIP; torch calls its device cuda all the same.
    return {"rocm": built["hip"]} if "hip" in built else {"cuda": built["cuda"]} if "cuda" in built else {}
