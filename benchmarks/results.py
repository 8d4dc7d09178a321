"""RESULTS.md: where every benchmark leaves its section."""

from __future__ import annotations

from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"


def record(text: str, *, keep: bool) -> None:
    """Print a section of results and, with ``keep``, append it to RESULTS.md."""
    print(text)
    if keep:
        with RESULTS.open("a", encoding="utf-8") as results:
            results.write(f"\n{text}")
