"""Which names files of a bundle and of an archive may have: those that mean the same file on every system."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

MOST_NAME_BYTES, MOST_PATH_BYTES, MOST_PARTS = 200, 1000, 12
DIGEST_DIGITS = 32
"""So many digits of its digest are in the name of a bundle: nobody makes another bundle of the same name."""


def bundle_name(candidate_hash: str, digest: str) -> str:
    """Return the name of a bundle's folder: what was asked for, and what it is."""
    return f"{candidate_hash}-{digest[:DIGEST_DIGITS]}"


def is_named_after(name: str, digest: str) -> bool:
    """Whether a bundle of this digest is the one that is called ``name``."""
    return name.rpartition("-")[2] == digest[:DIGEST_DIGITS]


def why_not_a_name(names: Sequence[str]) -> str | None:
    """Return what is wrong with the first bad one of relative paths, or with two of them together; None if nothing."""
    folded: dict[str, str] = {}
    files: set[str] = set()
    for name in names:
        if (why := _alone(name)) is not None:
            return f"the path {name[:200]!r}, which {why}"
        parts = name.split("/")
        for count in range(1, len(parts) + 1):
            path = "/".join(parts[:count])
            other = folded.setdefault(_fold(path), path)
            if other != path:
                return f"the paths {other[:200]!r} and {path[:200]!r}, which are one file on some systems"
            if path in files:
                return f"the path {name[:200]!r}, which is within the file {path[:200]!r} or twice there"
        files.add(name)
    if within := next((name for name in names if any(other.startswith(f"{name}/") for other in files)), None):
        return f"the path {within[:200]!r}, which is a file and a folder at once"
    return None


def _alone(name: str) -> str | None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not Unicode"
    if size > MOST_PATH_BYTES:
        return f"is longer than {MOST_PATH_BYTES} bytes"
    if name.startswith(("/", "~")):
        return "is absolute: it leaves the bundle"
    if forbidden := next((character for character in '\\:%*?"<>|' if character in name), None):
        return f"holds {forbidden!r}, which leads elsewhere on some systems"
    if not name.isprintable():
        return "holds characters that cannot be seen"
    if unicodedata.normalize("NFC", name) != name:
        return "is not in Unicode's composed form"
    parts = name.split("/")
    if len(parts) > MOST_PARTS:
        return f"is more than {MOST_PARTS} folders deep"
    for part in parts:
        if part in ("", ".", ".."):
            return f"holds the part {part!r}: it leaves the bundle"
        if part != part.strip() or part.endswith("."):
            return "has a part that begins or ends with a space, or ends with a dot"
        if len(part.encode()) > MOST_NAME_BYTES:
            return f"has a part longer than {MOST_NAME_BYTES} bytes"
    return None


def _fold(path: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
