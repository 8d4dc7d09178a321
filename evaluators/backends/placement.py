"""Bundles that hold code for one class of hardware: whether this machine is of that class."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.errors import UnsupportedError
from evaluators.target import Target, probe_targets


def require_target(name: str, what: str) -> None:
    """Refuse to load what was made for another class of hardware.

    Raises:
        UnsupportedError: this machine does not offer the target.
    """
    if (why := foreign(name, probe_targets(), what)) is not None:
        raise UnsupportedError(why)


def foreign(name: str, offered: Sequence[Target], what: str) -> str | None:
    """Return why ``what``, made for the target of that name, cannot run on a machine that offers these, or None."""
    names = [target.name for target in offered]
    if name in names:
        return None
    return f"{what} is made for {name}, and this machine offers {', '.join(names)}: build it here"
