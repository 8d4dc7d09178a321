"""The target that a bundle is built for, which need not be one of this machine's."""

from __future__ import annotations

from evaluators.backends.base import Backend
from evaluators.target import Target, known_by_name, probe_target, probe_targets


def build_target(name: str, backend: Backend) -> Target:
    """Return the target of that name: this machine's, or, where ``backend`` builds anywhere, one known by name alone.

    Of a machine that is not here nothing but the name is known: no features, no memory.

    Raises:
        UsageError: no target has such a name, or this machine has none and the backend builds on its target only.
    """
    if not backend.builds_anywhere or any(target.name == name for target in probe_targets()):
        return probe_target(name)
    return known_by_name(name)
