"""Where a user says which interpreter a backend lives in: flags, environment, configuration file and recorded specs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_FORM = "write BACKEND=/path/to/python"


def named_pythons(value: Any) -> dict[str, str]:
    """Return the path of each backend's interpreter, by backend, absolute.

    ``value`` is a mapping, or a list of ``tensorrt=/opt/trt/bin/python``, or such texts with commas between them.
    Links are kept: the executable of a virtual environment is one, and finds its packages by where it lies.

    Raises:
        ValueError: it is none of these, or a backend is named twice.
    """
    if isinstance(value, Mapping):
        pairs = [(str(backend), python) for backend, python in value.items()]
    elif isinstance(value, str):
        pairs = [_pair(part.strip()) for part in value.split(",") if part.strip()]
    elif isinstance(value, Sequence):
        pairs = [_pair(str(part).strip()) for part in value]
    else:
        raise ValueError(f"{value!r} names no interpreters; {_FORM}")
    found: dict[str, str] = {}
    for backend, python in pairs:
        if not isinstance(python, str) or not python.strip():
            raise ValueError(f"{python!r} is no path of an interpreter for {backend}; {_FORM}")
        if backend in found:
            raise ValueError(f"{backend} has two interpreters; name one")
        found[backend] = str(Path(python.strip()).expanduser().absolute())
    return found


def pythons_of_file(content: Any) -> dict[str, str]:
    """Return the same from what a file says under ``backends``: ``{tensorrt: {python: /opt/trt/bin/python}}``.

    Raises:
        ValueError: it says anything else.
    """
    shape = "write backends: {tensorrt: {python: /opt/trt/bin/python}}"
    if not isinstance(content, Mapping):
        raise ValueError(f"backends must hold a name for each backend, got {content!r}; {shape}")
    for backend, settings in content.items():
        if not isinstance(settings, Mapping) or set(settings) != {"python"}:
            raise ValueError(f"backends.{backend} must hold 'python' and nothing else, got {settings!r}; {shape}")
    return named_pythons({str(backend): settings["python"] for backend, settings in content.items()})


def _pair(text: str) -> tuple[str, str]:
    backend, separator, python = text.partition("=")
    if not separator or not backend.strip():
        raise ValueError(f"{text!r} names no backend and interpreter; {_FORM}")
    return backend.strip(), python
