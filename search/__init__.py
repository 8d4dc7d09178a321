"""What to try next, what is best, what to show and to promote."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.api import run

__all__ = ["run"]


def __getattr__(name: str) -> Any:
    """Load the API when it is first used: the command line must answer quickly."""
    if name == "run":
        from search.api import run

        return run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
